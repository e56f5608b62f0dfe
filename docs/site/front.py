"""The doors of the front page: one for each part of the site that is there."""

from __future__ import annotations

from docs.site.places import Places

__all__ = ["doors"]

_COURSE = (
    "Course",
    "From text to tokens to a circuit: lessons that compute every number they show, with exercises that check themselves.",
)
_GUIDES = {
    "docs/theory.md": ("Theory", "The mathematics from attention to circuits, with shapes, derivations and costs."),
    "docs/code_guide.md": ("Write it yourself", "Each component in order, with a test for each."),
    "docs/worked_example.md": ("Worked example", "A model small enough to compute by hand, step by step."),
    "docs/glossary.md": ("Glossary", "The words of the field, and what goes wrong with them."),
    "docs/faq.md": ("Questions", "What learners and users ask, with answers that run."),
    "docs/from_transformerlens.md": ("From TransformerLens", "Name by name, and what is different."),
    "docs/from_nanogpt.md": ("From nanoGPT", "Name by name, and what there is beside it."),
}
_GALLERY = ("Experiments", "Published results, trained from nothing, each held against checks with their nulls.")
_DIAGRAMS = ("Diagrams", "The model, one head, the stream, the cache, a circuit: each in one picture.")
_REFERENCE = ("Reference", "Every public name with its shapes, and the source it comes from.")


def doors(places: Places, *, has_gallery: bool, has_diagrams: bool) -> str:
    """Return the doors as Markdown."""
    found = []
    if places.lessons:
        first = "COURSE_ROADMAP.md" if "COURSE_ROADMAP.md" in places.pages else places.lessons[0]
        found.append((*_COURSE, places.link("index.md", first)))
    guides = [(*about, places.link("index.md", path)) for path, about in _GUIDES.items() if path in places.pages]
    diagrams = [(*_DIAGRAMS, "/guides/diagrams.md")] * has_diagrams
    gallery = [(*_GALLERY, "/gallery/index.md")] * has_gallery
    found += [*guides[:3], *diagrams, *gallery, (*_REFERENCE, "/reference/index.md"), *guides[3:]]
    cards = "\n\n".join(f":::{{container}} door\n**[{title}]({target})**\n\n{about}\n:::" for title, about, target in found)
    return f"::::{{container}} doors\n\n{cards}\n\n::::"
