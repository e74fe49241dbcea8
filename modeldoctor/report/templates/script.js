"use strict";
// Only comfort: every table is whole without it.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], rows = [...body.rows];
  const value = (row, column) => {
    const cell = row.cells[column], given = cell.dataset.value;
    return given === undefined ? cell.textContent.trim().toLowerCase() : given === "nan" ? Infinity : Number(given);
  };
  for (const head of table.tHead.rows[0].cells) {
    if (head.classList.contains("track")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending", column = head.cellIndex;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      rows.sort((a, b) => {
        const one = value(a, column), two = value(b, column);
        const order = typeof one === "number" ? one - two || 0 : one.localeCompare(two);
        return down ? -order : order;
      });
      body.append(...rows);
    });
  }
  if (rows.length > 12) {
    const field = document.createElement("input");
    field.type = "search";
    field.className = "filter";
    field.placeholder = "Filter " + rows.length + " rows by name";
    field.setAttribute("aria-label", field.placeholder);
    field.addEventListener("input", () => {
      const sought = field.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(sought);
    });
    table.parentElement.before(field);
  }
}
