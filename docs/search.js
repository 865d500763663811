// Sphinx puts this behind its own search code. Its search ignores numbers, and error texts contain numbers.
const parseQuery = Search._parseQuery;
Search._parseQuery = (query) => {
  const parsed = parseQuery(query);
  const [, searchTerms, , highlightTerms] = parsed;
  for (const number of query.match(/\b\d+\b/g) ?? []) {
    searchTerms.add(number);
    highlightTerms.add(number);
  }
  return parsed;
};

// A page whose text has all words of the query gets 5, a page with one of them in a heading 15, and a page whose title is
// the query 16. The page of symptoms comes directly below the last.
Scorer.score = ([page, , , , score, , kind]) => (page === "symptoms" && kind === "text" ? 15.5 : score);
