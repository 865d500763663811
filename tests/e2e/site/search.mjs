// Search the built site as its search page does: node search.mjs SITE. Reads queries as JSON, prints the pages found.
import { readFileSync } from "node:fs";
import vm from "node:vm";

const site = process.argv[2];
const page = { getElementById: () => null };
const context = vm.createContext({ document: page, localStorage: {}, SPHINX_HIGHLIGHT_ENABLED: false, _ready: () => {} });
vm.runInContext("var window = globalThis", context);
for (const script of ["_static/searchtools.js", "_static/language_data.js", "searchindex.js"])
  vm.runInContext(readFileSync(`${site}/${script}`, "utf8"), context);
const search = vm.runInContext(
  "(query) => Search._performSearch(...Search._parseQuery(query)).reverse().map(([page]) => page)", context);
console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(search)));
