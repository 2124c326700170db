// A click on a heading sorts the table by that column. The page is complete without this script.
"use strict";
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const key = (row, index) => {
    const cell = row.cells[index];
    if (!cell) return NaN;
    return "order" in cell.dataset ? Number(cell.dataset.order) : cell.textContent.trim().toLowerCase();
  };
  // Cells without a value stay at the end in both directions.
  const compare = (a, b, sign) => {
    const missing = (value) => Number.isNaN(value) || value === "";
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    if (typeof a === typeof b) return sign * (a < b ? -1 : Number(a > b));
    return typeof a === "number" ? -1 : 1;
  };
  [...table.tHead.rows[0].cells].forEach((head, index) => {
    head.classList.add("sorts");
    head.tabIndex = 0;
    const sort = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const heading of head.parentNode.cells) heading.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows];
      rows.sort((a, b) => compare(key(a, index), key(b, index), down ? -1 : 1));
      body.append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}
// Browsers do not print closed details, so open them first.
addEventListener("beforeprint", () => { for (const details of document.querySelectorAll("details")) details.open = true; });
