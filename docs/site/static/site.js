// What the keyboard needs: boxes that scroll can be reached, and the switches of narrow screens can be pressed.
(() => {
  "use strict";
  const names = { PRE: "Code", DIV: "Wide content", "MJX-CONTAINER": "Formula" };
  const boxes = ".highlight pre, .table-wrapper, div.math, .math-wrapper, mjx-container[display], .cell_output .output";

  const look = () => {
    for (const box of document.querySelectorAll(boxes)) {
      const scrolls = box.scrollWidth > box.clientWidth + 1;
      if (scrolls && !box.dataset.scrolls) {
        box.dataset.scrolls = "1";
        box.tabIndex = 0;
        if (box.tagName !== "MJX-CONTAINER") {
          box.setAttribute("role", "group");
          box.setAttribute("aria-label", `${names[box.tagName] || "Content"}, scrolls sideways`);
        }
      } else if (!scrolls && box.dataset.scrolls) {
        delete box.dataset.scrolls;
        for (const each of ["tabindex", "role", "aria-label"]) box.removeAttribute(each);
      }
    }
  };

  const press = () => {
    const said = { __navigation: "Navigation", __toc: "On this page" };
    for (const label of document.querySelectorAll("label.nav-overlay-icon, label.toc-overlay-icon")) {
      const input = document.getElementById(label.htmlFor);
      label.tabIndex = 0;
      label.setAttribute("role", "button");
      label.setAttribute("aria-label", said[label.htmlFor]);
      label.setAttribute("aria-expanded", String(input.checked));
      input.addEventListener("change", () => label.setAttribute("aria-expanded", String(input.checked)));
      label.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          label.click();
        }
      });
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    press();
    look();
    if (window.MathJax && window.MathJax.startup && window.MathJax.startup.promise) window.MathJax.startup.promise.then(look);
  });
  window.addEventListener("load", look);
  window.addEventListener("resize", look);
  document.addEventListener("toggle", look, true); // a fold that opens
})();
