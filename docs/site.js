const words = (localStorage.getItem("sphinx_highlight_terms") ?? "").split(" ").filter(Boolean);

// The row whose error text is in the search, the longest one if there are several. A pasted message has other words too, also
// in place of "…" in a text of three words or more.
const rowOfMessage = (rows) => {
  const query = ` ${sessionStorage.getItem("search") ?? ""} `;
  const isThere = (text) => query.includes(` ${text} `);
  let [best, most] = [null, 1];
  for (const row of rows) {
    for (const { textContent } of row.cells[0].querySelectorAll("code")) {
      const text = textContent.toLowerCase().match(/[\p{Letter}\p{Number}_]+/gu) ?? [];
      const found = text.length > 2 ? text.every(isThere) : isThere(text.join(" "));
      if (found && text.length > most) [best, most] = [row, text.length];
    }
  }
  return best;
};

// The row that has most of the words. Rare words count more than others, and those in the first column twice.
const rowOfWords = (rows) => {
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

const showRow = () => {
  const rows = [...document.querySelectorAll("article tbody tr")];
  const row = rowOfMessage(rows) ?? rowOfWords(rows);
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

document.addEventListener("DOMContentLoaded", () => {
  // Sphinx marks the words of a search on the page that the reader opens, and raises at a word in the title of an icon.
  for (const title of document.querySelectorAll("svg title")) title.classList.add("nohighlight");
  if (document.getElementById("search-results")) return;
  sessionStorage.setItem("language", document.documentElement.lang); // the search begins with pages in this language
  if (words.length && !location.hash && location.pathname.endsWith("/symptoms/")) showRow();
});
