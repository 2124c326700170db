// Tables that sort, charts that can be kept as SVG, and details that print. The page is complete without this script.
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
    const button = document.createElement("button");
    button.append(...head.childNodes);
    if (!button.textContent.trim()) return;
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const heading of head.parentNode.cells) heading.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows];
      rows.sort((a, b) => compare(key(a, index), key(b, index), down ? -1 : 1));
      body.append(...rows);
    });
  });
}
// A button below each chart saves it as SVG, with its own colours in the place of those of the page.
document.querySelectorAll(".chart").forEach((chart, index) => {
  const button = document.createElement("button");
  button.className = "plain";
  button.textContent = "Save as SVG";
  button.addEventListener("click", () => {
    const text = new XMLSerializer().serializeToString(chart.querySelector("svg"));
    const own = text.replace(/var\(--[\w-]+, (#[0-9a-f]{6})\)/g, "$1");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([own], { type: "image/svg+xml" }));
    link.download = `figure-${index + 1}.svg`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  chart.after(button);
});
// Browsers do not print closed details, so open them first.
addEventListener("beforeprint", () => { for (const details of document.querySelectorAll("details")) details.open = true; });
