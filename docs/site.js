// Sphinx marks the words of a search on the page that the reader opens, and raises at a word in the title of an icon.
document.addEventListener("DOMContentLoaded", () => {
  for (const title of document.querySelectorAll("svg title")) title.classList.add("nohighlight");
});
