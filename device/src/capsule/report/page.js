"use strict";
// Details for who points at a chart, and filters. The page says all that matters without it.
(() => {
  const root = document.documentElement;
  const charts = [...document.querySelectorAll(".chart")].map((figure) => ({
    plot: figure.querySelector(".plot"),
    cursor: figure.querySelector(".cursor"),
    output: figure.querySelector("output"),
    values: JSON.parse(figure.dataset.values),
    columns: Number(figure.dataset.columns),
    width: Number(figure.dataset.width),
  }));

  // All charts have the same time, so all show the same column.
  const show = (column) => {
    for (const { cursor, output, values, columns, width } of charts) {
      cursor.style.display = column === null ? "none" : "block";
      if (column === null) {
        output.textContent = "";
        continue;
      }
      cursor.style.left = `${((column + 0.5) / columns) * 100}%`;
      const parts = values
        .filter(([, , numbers]) => numbers[column] !== null && numbers[column] !== undefined)
        .map(([name, unit, numbers]) => `${name} ${numbers[column].toLocaleString("en")}${unit}`);
      output.textContent = [`${((column * width) / 1e7).toFixed(4)} s`, ...parts].join("; ");
    }
  };
  for (const { plot, columns } of charts) {
    plot.addEventListener("pointermove", (event) => {
      const { left, width } = plot.getBoundingClientRect();
      const column = Math.floor(((event.clientX - left) / width) * columns);
      show(Math.min(Math.max(column, 0), columns - 1));
    });
    plot.addEventListener("pointerleave", () => show(null));
  }

  for (const box of document.querySelectorAll("input[data-severity]")) {
    box.addEventListener("change", () => {
      for (const article of document.querySelectorAll(`article[data-severity=${box.dataset.severity}]`)) {
        article.hidden = !box.checked;
      }
    });
  }

  const find = document.getElementById("find");
  const rows = [...document.querySelectorAll(".last tbody tr")];
  find.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      shown += row.hidden ? 0 : 1;
    }
    document.getElementById("found").textContent = wanted === "" ? "" : `${shown} of ${rows.length}`;
  });
  root.dataset.script = "ready";
})();
