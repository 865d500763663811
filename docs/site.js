const words = (localStorage.getItem("sphinx_highlight_terms") ?? "").split(" ").filter(Boolean);

// The row whose error text or code is in the search, the longest one if there are several. A pasted message has other words
// too, also in place of "…" in a text of three words or more.
const rowOfMessage = (rows) => {
  const query = ` ${sessionStorage.getItem("search") ?? ""} `;
  const isThere = (text) => query.includes(` ${text} `);
  let [best, most] = [null, 0];
  for (const row of rows) {
    const texts = new Set();
    for (const { textContent } of row.cells[0].querySelectorAll("code")) {
      const text = textContent.toLowerCase().match(/[\p{Letter}\p{Number}_]+/gu) ?? [];
      const found = text.length > 2 ? text.every(isThere) : isThere(text.join(" "));
      if (found && (text.length > 1 || text[0]?.includes("_"))) texts.add(text.join(" "));
    }
    const longest = Math.max(0, ...[...texts].map((text) => text.length));
    const length = longest + [...texts].join("").length / 1000; // of equal ones, the row with more texts
    if (length > most) [best, most] = [row, length];
  }
  return best;
};

// The row that has most of the words. Rare words count more than others, and those in the first column twice.
const rowOfWords = (rows, words) => {
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const times = (word) => [...texts.values()].filter((text) => text.includes(word)).length;
  const known = new Map(words.map((word) => [word, times(word)]).filter(([, times]) => times));
  let [best, most, count] = [null, 0, 0];
  for (const [row, text] of texts) {
    const here = [...known].filter(([word]) => text.includes(word));
    const seen = row.cells[0].textContent.toLowerCase();
    const weight = here.reduce((sum, [word, times]) => sum + (seen.includes(word) ? 2 : 1) / times, 0);
    if (weight > most) [best, most, count] = [row, weight, here.length];
  }
  return count >= known.size / 2 && count >= words.length / 3 ? best : null;
};

// RAGFlow puts the real error behind a text of its own, so the rows of such texts are the last choice.
const WRAPPER = /Fail to|\*\*ERROR\*\*|[A-Z]_ERROR(?! -)|MAX_RETRIES|CONTENT_FILTERED|Error code:/;
const findRow = (rows, words) => {
  const wrappers = rows.filter((row) => WRAPPER.test(row.cells[0].textContent));
  const others = rows.filter((row) => !wrappers.includes(row));
  return rowOfMessage(others) ?? rowOfMessage(wrappers) ?? rowOfWords(rows, words);
};

const rowsOf = (page) => [...page.querySelectorAll("article tbody tr")];
const showRow = () => {
  const row = findRow(rowsOf(document), words);
  if (row) {
    row.classList.add("found");
    row.scrollIntoView({ block: "center" });
    return;
  }
  const note = document.createElement("p");
  note.className = "no-row";
  note.setAttribute("role", "status");
  note.textContent =
    document.documentElement.lang === "zh"
      ? "没有一行包含这些词。请减少搜索的词，或运行 gatepass show ID。"
      : "No row has these words. Search for fewer words, or run gatepass show ID.";
  document.querySelector("article h1").after(note);
};

const CHINESE = {
  Search: "搜索",
  Next: "下一页",
  Previous: "上一页",
  "On this page": "本页内容",
  "Back to top": "回到顶部",
  "Getting started": "入门",
  Clients: "客户端",
  "Upstreams and tokens": "上游与令牌",
  Deploy: "部署",
  Operate: "运维",
  Concepts: "概念",
  Reference: "参考",
  Project: "项目",
  "Skip to content": "跳到正文",
  "Hide Search Matches": "取消标记",
  "Made with": "网站主题：",
};

// The search page belongs to no language: it has that of the page before.
const isChinese = () => (sessionStorage.getItem("language") ?? document.documentElement.lang) === "zh";

// A Chinese page shows the Chinese pages first, and the words of the theme in Chinese.
const showChinese = () => {
  const tree = document.querySelector(".sidebar-tree");
  const link = [...tree.querySelectorAll("a")].find(({ href }) => href.endsWith("/zh/") || href.endsWith("/zh/#"));
  const section = (link ?? tree.querySelector('.current-page a')).closest(".sidebar-tree > ul");
  tree.prepend(section.previousElementSibling, section);
  const twins = new Map([...section.querySelectorAll("a")].map((a) => [a.pathname.split("/").at(-2), a]));
  for (const a of tree.querySelectorAll(":scope > ul:not(:first-of-type) a")) {
    const twin = twins.get(a.pathname.split("/").at(-2));
    if (twin) [a.href, a.textContent] = [twin.href, twin.textContent];
  }
  const ofTheme = ".caption-text, .context span, .toc-title, .back-to-top span, .skip-to-content, .highlight-link a";
  for (const element of [...document.querySelectorAll(ofTheme), ...document.querySelector(".left-details").childNodes])
    element.textContent = CHINESE[element.textContent.trim()] ?? element.textContent;
  const box = document.querySelector(".sidebar-search");
  [box.placeholder, box.ariaLabel] = [CHINESE.Search, CHINESE.Search];
};

document.addEventListener("DOMContentLoaded", () => {
  // Sphinx marks the words of a search on the page that the reader opens, and raises at a word in the title of an icon.
  for (const title of document.querySelectorAll("svg title")) title.classList.add("nohighlight");
  const isSearch = document.getElementById("search-results");
  // the search begins with pages in this language
  if (!isSearch) sessionStorage.setItem("language", document.documentElement.lang);
  if (isChinese()) showChinese();
  if (isSearch) return;
  if (words.length && !location.hash && location.pathname.endsWith("/symptoms/")) showRow();
});
