// Draws the charts in the colours of the page, and sorts tables by a click on a heading.
"use strict";

const quiet = { labelColor: "currentColor", titleColor: "currentColor", labelOpacity: 0.75, titleOpacity: 0.75 };
const config = {
  background: "transparent",
  font: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif",
  axis: {
    ...quiet, labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500, titlePadding: 8,
    gridColor: "currentColor", gridOpacity: 0.12, tickColor: "currentColor", tickOpacity: 0.3,
    domainColor: "currentColor", domainOpacity: 0.3,
  },
  legend: { ...quiet, labelFontSize: 12, orient: "top", title: null, labelLimit: 140, symbolType: "stroke", symbolStrokeWidth: 3 },
  view: { stroke: null },
};

for (const figure of document.querySelectorAll(".chart")) {
  const spec = JSON.parse(figure.querySelector("script").textContent);
  vegaEmbed(figure.querySelector(".vega"), spec, { config, renderer: "svg", actions: false })
    .catch((error) => console.error(error));
}

function value(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent;
  const number = Number(text);
  return text.trim() === "" || Number.isNaN(number) ? text : number;
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    heading.tabIndex = 0;
    heading.setAttribute("role", "button");
    heading.title = "sort by this column";
    const sort = () => {
      const falling = heading.getAttribute("aria-sort") !== "descending";
      for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => {
        const [one, two] = [value(a, column), value(b, column)];
        return (one < two ? -1 : one > two ? 1 : 0) * (falling ? -1 : 1);
      });
      body.append(...rows);
    };
    heading.addEventListener("click", sort);
    heading.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
}
