// A click on a heading sorts the table by that column; without the script the page reads the same.
"use strict";
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const key = (row, index) => {
    const cell = row.cells[index];
    if (!cell) return NaN;
    return "order" in cell.dataset ? Number(cell.dataset.order) : cell.textContent.trim().toLowerCase();
  };
  // What has no value stays at the end in either direction.
  const compare = (a, b, sign) => {
    const lost = (value) => Number.isNaN(value) || value === "";
    if (lost(a) || lost(b)) return lost(a) - lost(b);
    if (typeof a === typeof b) return sign * (a < b ? -1 : Number(a > b));
    return typeof a === "number" ? -1 : 1;
  };
  [...table.tHead.rows[0].cells].forEach((head, index) => {
    head.classList.add("sorts");
    head.tabIndex = 0;
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows];
      rows.sort((a, b) => compare(key(a, index), key(b, index), down ? -1 : 1));
      body.append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}
// Folded parts do not print: open them first.
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
