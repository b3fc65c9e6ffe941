"""The report's style sheet and its one script, which sorts tables. Both lie in the page: it needs no network."""

CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --faint: #6b7280; --line: #d9dce1; --raised: #f5f6f8;
  --good: #e4f2ec; --orange: #c98500; --sky: #56b4e9; --green: #009e73; --blue: #0072b2; --red: #d55e00;
  --purple: #b4608f }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #14161a; --ink: #e6e8eb; --faint: #9aa1ac; --line: #343942;
  --raised: #1d2026; --good: #17352b; --orange: #e69f00; --sky: #7cc7f2; --green: #2dc79a; --blue: #4aa8e0;
  --red: #f27a2e; --purple: #dd93bb } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 1160px; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem }
p, li { max-width: 46rem; margin: .4rem 0; overflow-wrap: anywhere }
ul { padding-left: 1.2rem }
.question { font-size: 1.1rem }
.note, figcaption, caption { color: var(--faint); font-size: .875rem; text-align: left }
nav { font-size: .875rem; margin-top: .8rem } nav a { margin-right: 1rem; white-space: nowrap } a { color: var(--blue) }
.scroll { overflow-x: auto; max-width: 100%; border: 1px solid var(--line); border-radius: 4px; margin: .6rem 0 }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; width: 100% }
th, td { padding: .35rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  white-space: nowrap }
tbody tr:last-child > * { border-bottom: 0 }
thead th { background: var(--raised); vertical-align: bottom; font-weight: 600 }
thead small { white-space: normal }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; text-align: inherit; cursor: pointer }
th[aria-sort=ascending] button::after { content: " \\2191" } th[aria-sort=descending] button::after { content: " \\2193" }
tbody th { font-weight: 500; white-space: normal; min-width: 12.5rem; overflow-wrap: break-word }
td.number, th.number { text-align: right } td.wide { white-space: normal; min-width: 16rem }
td.best { background: var(--good); font-weight: 700 } tr.ours > * { background: var(--good) }
td small, th small { display: block; color: var(--faint); font-weight: 400 }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: .8rem 1.2rem;
  margin: .6rem 0 }
.panels > svg { width: 100%; height: auto; display: block }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.2rem; font-size: .875rem; padding: 0; margin: .6rem 0; list-style: none }
.legend li { margin: 0; max-width: 100% } .swatch { vertical-align: middle; margin-right: .4rem; width: 34px; height: 12px }
.pictures { display: flex; flex-wrap: wrap; gap: 1.2rem 1rem; align-items: flex-start; margin: .6rem 0 }
figure { margin: 0; max-width: 100%; min-width: min(100%, 11rem) } figure img { display: block; max-width: 100%; height: auto }
figcaption { overflow-wrap: break-word; margin-top: .3rem } .pixels { image-rendering: pixelated }
pre { background: var(--raised); border: 1px solid var(--line); border-radius: 4px; padding: .7rem; overflow-x: auto;
  font-size: .8125rem; max-width: 100% } summary { cursor: pointer; margin: .6rem 0 } code { overflow-wrap: anywhere }
@media print { body { font-size: 10.5pt } main { max-width: none; padding: 0 } nav { display: none }
  .scroll { overflow: visible; border: 0 }
  table { font-size: 7.5pt } th, td { padding: 2pt 4pt; white-space: normal } tbody th { min-width: 0 } td.wide { min-width: 0 }
  .panels { grid-template-columns: 1fr 1fr } figure, .panels > svg, tr { break-inside: avoid } h2, h3 { break-after: avoid }
  pre { white-space: pre-wrap } * { -webkit-print-color-adjust: exact; print-color-adjust: exact } }
"""

# Cells carry what to sort by in data-v; empty ones stay last either way.
SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = row => row.cells[column].dataset.v ?? row.cells[column].textContent;
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        return (down ? -1 : 1) * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
    });
  });
}
"""
