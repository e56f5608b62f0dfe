// Sphinx's own scores, and more for pages that teach: lessons before guides, guides before the reference.
var Scorer = {
  score: ([page, , , , score]) => score + (page.startsWith("course/") ? 20 : page.startsWith("guides/") ? 15 : 0),
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
