"use strict";
// The theme, and the table's order and filters. Without it the page is whole, in the order of ranks.
(() => {
  const KEY = "fedllm-bench-theme";
  const THEMES = ["system", "light", "dark"];
  const FIRST = 100; // rows that are laid out at once; the style sheet has the same number
  const root = document.documentElement;

  function stored() {
    try {
      const theme = localStorage.getItem(KEY);
      return THEMES.includes(theme) ? theme : "system";
    } catch {
      return "system"; // pages from disk may have no storage
    }
  }

  function choose(theme) {
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // then the choice holds for this page only
    }
  }

  let theme = stored();
  if (theme !== "system") root.dataset.theme = theme;
  root.classList.add("paged"); // before the table is there

  function startTheme() {
    const button = document.getElementById("theme");
    const show = () => { button.textContent = `Theme: ${theme}`; };
    button.hidden = false;
    button.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      choose(theme);
      show();
    });
    show();
  }

  function startTable() {
    const table = document.getElementById("board");
    if (!table) return;
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    const rows = [...body.rows].map((row, place) => ({
      row,
      place,
      keys: [...row.cells].map((cell) => cell.dataset.v),
      text: row.cells[1].textContent.toLowerCase() + " " + row.dataset.t,
    }));
    const field = (name) => document.getElementById("f-" + name);
    const count = document.getElementById("count");
    const more = document.getElementById("more");
    let order = rows;
    let most = FIRST;

    // What has no number is last in both directions; equal keys keep the order of ranks.
    function compare(a, b, sign) {
      if (a === "" || b === "") return (a === "") - (b === "");
      const [x, y] = [Number(a), Number(b)];
      if (!Number.isNaN(x) && !Number.isNaN(y)) return sign * (x - y);
      return sign * a.localeCompare(b, "en");
    }

    function sort(column) {
      const head = heads[column];
      const former = head.getAttribute("aria-sort");
      const next = former ? (former === "ascending" ? "descending" : "ascending") : head.dataset.first;
      for (const each of heads) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      order = [...rows].sort((a, b) => compare(a.keys[column], b.keys[column], sign) || a.place - b.place);
      filter(); // first, so that only rows that are shown are laid out again
      body.append(...order.map((each) => each.row));
    }

    function filter() {
      const words = field("search").value.toLowerCase().split(/\s+/u).filter(Boolean);
      const [kind, tier] = [field("kind").value, field("tier").value];
      let found = 0;
      for (const { row, text } of order) {
        const fits = (!kind || row.dataset.k === kind) && (!tier || row.dataset.t === tier) && words.every((word) => text.includes(word));
        found += fits;
        row.hidden = !fits || found > most;
      }
      const part = found > most ? `, the first ${most} shown` : "";
      count.textContent = found ? `${found} of ${rows.length} rows${part}` : "No row fits. Clear the filters or search for other words.";
      more.hidden = found <= most;
    }

    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => sort(column));
    });
    for (const name of ["kind", "tier"]) field(name).addEventListener("change", filter);
    field("search").addEventListener("input", filter);
    field("reset").addEventListener("click", () => {
      for (const name of ["search", "kind", "tier"]) field(name).value = "";
      filter();
    });
    more.addEventListener("click", () => {
      most = rows.length;
      filter();
      count.focus();
    });
    filter();
    document.getElementById("filters").hidden = false;
  }

  document.addEventListener("DOMContentLoaded", () => {
    startTheme();
    startTable();
    root.classList.remove("paged");
  });
})();
