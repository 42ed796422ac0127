// Shows the values at the pointer or, with the arrow keys, at the place that has been reached. All of them also stand in
// the table below each figure, so that the page is whole without this script.
(() => {
  "use strict";
  const tip = document.getElementById("tip");
  let marked = null;

  const hide = () => {
    tip.hidden = true;
    if (marked) {
      marked.classList.remove("at");
      marked.style.removeProperty("visibility");
      marked = null;
    }
  };

  const show = (text, mark, x, y) => {
    if (marked !== mark) hide();
    marked = mark;
    if (tip.textContent !== text) tip.textContent = text;
    tip.hidden = false;
    const width = document.documentElement.clientWidth;
    const left = Math.max(8, Math.min(x + 14, width - tip.offsetWidth - 8));
    const above = y - tip.offsetHeight - 12;
    tip.style.left = `${left + window.scrollX}px`;
    tip.style.top = `${(above < 8 ? y + 16 : above) + window.scrollY}px`;
  };

  // The rows of the table of a line chart, with their places in the drawing.
  const rowsOf = (chart) => {
    if (!chart.rows) {
      const table = chart.closest(".panel").querySelector("table");
      const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
      chart.rows = [...table.tBodies[0].rows].map((row) => {
        const cells = [...row.cells].map((cell) => cell.textContent);
        const values = cells.slice(1).map((value, index) => [names[index + 1], value]);
        const lines = values.filter(([, value]) => value !== "").map(([name, value]) => `${name}: ${value}`);
        return { x: Number(row.dataset.x), text: [`${names[0]} ${cells[0]}`, ...lines].join("\n") };
      });
    }
    return chart.rows;
  };

  const showRow = (chart, index, y) => {
    const row = rowsOf(chart)[index];
    if (!row) return;
    const cross = chart.querySelector(".cross");
    cross.setAttribute("x1", row.x);
    cross.setAttribute("x2", row.x);
    const box = chart.getBoundingClientRect();
    const x = box.left + (row.x * box.width) / chart.viewBox.baseVal.width;
    show(row.text, cross, x, y ?? box.top + box.height / 3);
    cross.style.visibility = "visible";
    chart.at = index;
  };

  const showBlock = (chart, index) => {
    const block = chart.querySelectorAll("[data-tip]")[index];
    if (!block) return;
    const box = block.getBoundingClientRect();
    show(block.dataset.tip, block, box.left + box.width / 2, box.top);
    block.classList.add("at");
    chart.at = index;
  };

  for (const chart of document.querySelectorAll(".chart")) {
    const isLines = chart.dataset.kind === "lines";
    chart.addEventListener("pointermove", (event) => {
      if (isLines) {
        const box = chart.getBoundingClientRect();
        const x = ((event.clientX - box.left) * chart.viewBox.baseVal.width) / box.width;
        let nearest = 0;
        rowsOf(chart).forEach((row, index, rows) => {
          if (Math.abs(row.x - x) < Math.abs(rows[nearest].x - x)) nearest = index;
        });
        showRow(chart, nearest, event.clientY);
      } else {
        const block = event.target.closest("[data-tip]");
        if (!block) return hide();
        show(block.dataset.tip, block, event.clientX, event.clientY);
        block.classList.add("at");
      }
    });
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("blur", hide);
    chart.addEventListener("keydown", (event) => {
      const count = isLines ? rowsOf(chart).length : chart.querySelectorAll("[data-tip]").length;
      const at = chart.at ?? -1;
      const places = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: count - 1 };
      if (event.key === "Escape") return hide();
      if (!(event.key in places)) return;
      event.preventDefault();
      const next = Math.max(0, Math.min(count - 1, places[event.key]));
      if (isLines) showRow(chart, next);
      else showBlock(chart, next);
    });
  }

  // Figures and queries that are folded away on the screen are printed; tables of numbers are not.
  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll(".probe > details, .query")) {
      if (part.matches(".query") || part.querySelector(".figure")) part.open = true;
    }
  });
})();
