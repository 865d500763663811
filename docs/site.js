const words = (localStorage.getItem("sphinx_highlight_terms") ?? "").split(" ").filter(Boolean);

// Scroll to the row of a page of symptoms that has most of the words of the search. Rare words count more than others.
const showRow = () => {
  const texts = new Map([...document.querySelectorAll("article tbody tr")].map((row) => [row, row.textContent.toLowerCase()]));
  const times = (word) => [...texts.values()].filter((text) => text.includes(word)).length;
  const known = new Map(words.map((word) => [word, times(word)]).filter(([, times]) => times));
  let [best, most, count] = [null, 0, 0];
  for (const [row, text] of texts) {
    const here = [...known].filter(([word]) => text.includes(word));
    const weight = here.reduce((sum, [, times]) => sum + 1 / times, 0);
    if (weight > most) [best, most, count] = [row, weight, here.length];
  }
  if (best && count >= known.size / 2 && count >= words.length / 3) {
    best.classList.add("found");
    best.scrollIntoView({ block: "center" });
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
