// Sphinx puts this behind its own search code. Its search ignores numbers, and error texts contain numbers. Chinese has no
// spaces, so each two characters are a word of the index.
const splitWords = splitQuery;
splitQuery = (query) =>
  splitWords(query)
    .flatMap((word) => word.match(/[\u4e00-\u9fff]+|[^\u4e00-\u9fff]+/g))
    .flatMap((part) => (/[\u4e00-\u9fff]{2}/.test(part) ? [...part].slice(1).map((end, i) => [...part][i] + end) : [part]));

let highlighted = [];
const parseQuery = Search._parseQuery;
Search._parseQuery = (query) => {
  const parsed = parseQuery(query);
  const [, searchTerms, , highlightTerms] = parsed;
  for (const number of query.match(/\b\d+\b/g) ?? []) {
    searchTerms.add(number);
    highlightTerms.add(number);
  }
  highlighted = [...highlightTerms];
  localStorage.setItem("sphinx_highlight_terms", highlighted.join(" ")); // site.js finds the row with them
  sessionStorage.setItem("search", splitWords(query.toLowerCase()).join(" "));
  const isChinese = /[\u4e00-\u9fff]/.test(query) || sessionStorage.getItem("language") === "zh";
  symptoms = isChinese ? "zh/symptoms" : "symptoms";
  return parsed;
};

// A page whose text has all words of the query gets 5, a page with one of them in a heading 15, and a page whose title is
// the query 16. The page of symptoms in the reader's language comes directly below the last. Of equal pages, those in the
// reader's language come first.
let symptoms = "symptoms";
Scorer.score = ([page, , , , score, , kind]) => {
  if (page === symptoms && kind === "text") return 15.5;
  return score + (page.startsWith("zh/") === symptoms.startsWith("zh/") ? 0.2 : 0);
};

// A page must have all words of a query, and a pasted message has words that no page has. If the page of symptoms has at
// least half of the words, it comes first. Only a title that contains the whole query comes before it.
const performSearch = Search._performSearch;
Search._performSearch = (query, searchTerms, ...others) => {
  const found = performSearch(query, searchTerms, ...others);
  const { docnames, terms, titleterms } = Search._index;
  const page = docnames.indexOf(symptoms);
  const isThere = (word) => [terms[word], titleterms[word]].flat().includes(page);
  const known = new Set([...searchTerms].filter(isThere));
  if (searchTerms.size < 3 || known.size < 2) return found;
  if (found.length && known.size < searchTerms.size / 2) return found;
  const results = performSearch(query, known, ...others);
  const isSymptoms = ([page, , , , , , kind]) => page === symptoms && kind === "text";
  const titles = found.filter(([, , , , score]) => score >= 16);
  const rest = (found.length ? found : results).filter((result) => !isSymptoms(result) && !titles.includes(result));
  return [...rest, ...results.filter(isSymptoms), ...titles]; // the last one is shown first
};

// The excerpt of the page of symptoms is the row that the reader then sees.
const makeSearchSummary = Search.makeSearchSummary;
Search.makeSearchSummary = (html, keywords, anchor) => {
  const page = new DOMParser().parseFromString(html, "text/html");
  const isSymptoms = /^(Symptoms|故障现象)/.test(page.querySelector("article h1")?.textContent);
  const row = isSymptoms && !anchor ? findRow(rowsOf(page), highlighted) : null;
  if (!row) return makeSearchSummary(html, keywords, anchor);
  const summary = document.createElement("p");
  summary.className = "context";
  summary.textContent = [...row.cells].map(({ textContent }) => textContent).join(" — ");
  return summary;
};

if (sessionStorage.getItem("language") === "zh") {
  Documentation.addTranslations({
    locale: "zh",
    plural_expr: "0",
    messages: {
      Searching: "正在搜索",
      "Preparing search...": "正在准备搜索…",
      "Search Results": "搜索结果",
      "Search finished, found one page matching the search query.": ["搜索完成，找到 ${resultCount} 个页面。"],
      "Your search did not match any documents. Please make sure that all words are spelled correctly and that you've selected enough categories.":
        "没有页面包含这些词。请减少搜索的词。",
    },
  });
}
