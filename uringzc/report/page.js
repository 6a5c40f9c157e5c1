"use strict";
// Tables are sorted by the column whose head is clicked; the page's address keeps how: #sort=runs,3,descending
function sort(table, column, direction) {
  const body = table.tBodies[0];
  const value = (row) => row.cells[column].dataset.by;
  const numbers = [...body.rows].every((row) => row.cells[column].classList.contains("number"));
  const sign = direction === "descending" ? -1 : 1;
  const order = (a, b) => numbers ? parse(value(a)) - parse(value(b)) || 0 : value(a).localeCompare(value(b));
  [...body.rows].sort((a, b) => sign * order(a, b)).forEach((row) => body.append(row));
  [...table.tHead.rows[0].cells].forEach((head, at) => {
    if (at === column) head.setAttribute("aria-sort", direction);
    else head.removeAttribute("aria-sort");
  });
}

function parse(text) {
  return text === "-inf" ? -Infinity : Number(text);
}

function clicked(table, column) {
  const head = table.tHead.rows[0].cells[column];
  const direction = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
  sort(table, column, direction);
  try {
    history.replaceState(null, "", "#sort=" + [table.id, column, direction].join(","));
  } catch { /* a page that is not allowed to have an address */ }
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => clicked(table, column));
    head.append(button);
    if ([...table.tBodies[0].rows].every((row) => row.cells[column].classList.contains("number")))
      head.classList.add("number");
  });
}

function asAddressed() {
  const asked = /^#sort=([\w-]+),(\d+),(ascending|descending)$/.exec(location.hash);
  const table = asked && document.getElementById(asked[1]);
  if (table instanceof HTMLTableElement && Number(asked[2]) < table.tHead.rows[0].cells.length)
    sort(table, Number(asked[2]), asked[3]);
}
window.addEventListener("hashchange", asAddressed);
asAddressed();
document.documentElement.dataset.ready = "yes";
