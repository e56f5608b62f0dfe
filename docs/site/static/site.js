// What the keyboard and readers of the screen need: boxes that scroll can be reached, the two sides
// have names, and switches are buttons.
(() => {
  "use strict";
  const names = { PRE: "Code", DIV: "Wide content", P: "Picture", FIGURE: "Picture" };
  const boxes = ".highlight pre, .table-wrapper, div.math, .math-wrapper, mjx-container[display], .cell_output .output, figure, "
    + "p:not(.hero > p):has(> img:only-child)";

  const look = () => {
    for (const box of document.querySelectorAll(boxes)) {
      const scrolls = box.scrollWidth > box.clientWidth + 1;
      if (scrolls && !box.dataset.scrolls) {
        box.dataset.scrolls = "1";
        box.tabIndex = 0;
        if (box.tagName !== "MJX-CONTAINER") {
          if (box.tagName !== "FIGURE") box.setAttribute("role", "group");
          box.setAttribute("aria-label", `${names[box.tagName] || "Content"}, scrolls sideways`);
        }
      } else if (!scrolls && box.dataset.scrolls) {
        delete box.dataset.scrolls;
        for (const each of ["tabindex", "role", "aria-label"]) box.removeAttribute(each);
      }
    }
  };

  const name = () => {
    for (const [part, said] of [[".sidebar-drawer", "Site"], [".toc-drawer", "Page"]]) {
      document.querySelector(part)?.setAttribute("aria-label", said);
    }
  };

  // The switches of narrow screens are labels of hidden boxes: a button in each takes the keyboard too.
  const press = () => {
    for (const [id, said] of [["__navigation", "Navigation"], ["__toc", "On this page"]]) {
      const box = document.getElementById(id);
      for (const label of document.querySelectorAll(`label.nav-overlay-icon[for=${id}], label.toc-overlay-icon[for=${id}]`)) {
        const button = document.createElement("button");
        button.type = "button";
        button.className = "switch";
        button.append(...label.childNodes);
        button.setAttribute("aria-label", said);
        const tell = () => button.setAttribute("aria-expanded", String(box.checked));
        button.addEventListener("click", () => {
          box.checked = !box.checked;
          box.dispatchEvent(new Event("change"));
        });
        box.addEventListener("change", tell);
        tell();
        label.append(button);
      }
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    name();
    press();
    look();
    if (window.MathJax && window.MathJax.startup && window.MathJax.startup.promise) window.MathJax.startup.promise.then(look);
  });
  window.addEventListener("load", look);
  window.addEventListener("resize", look);
  document.addEventListener("toggle", look, true); // a fold that opens
})();
