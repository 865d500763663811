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

// A page must have all words of a query. A pasted line of a log has words that no page has, so that then the words count
// that the page of symptoms has.
const performSearch = Search._performSearch;
Search._performSearch = (query, searchTerms, ...others) => {
  const found = performSearch(query, searchTerms, ...others);
  if (found.length || searchTerms.size < 3) return found;
  const { docnames, terms, titleterms } = Search._index;
  const page = docnames.indexOf("symptoms");
  const isThere = (word) => [terms[word], titleterms[word]].flat().includes(page);
  const known = new Set([...searchTerms].filter(isThere));
  return known.size > 1 ? performSearch(query, known, ...others) : found;
};
