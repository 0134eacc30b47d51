"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Light and dark: the system's choice until the button is pressed.
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const remembered = (value) => {
    try {
      if (value) localStorage.setItem("data-agent-theme", value);
      return localStorage.getItem("data-agent-theme");
    } catch {
      return value; // a browser that keeps nothing for files
    }
  };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  const before = remembered();
  if (before === "dark" || before === "light") root.dataset.theme = before;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remembered(root.dataset.theme);
    label();
  });
  system.addEventListener("change", label);
  label();

  // Tables: a click on a head sorts, a second one turns the order round; no number comes last.
  const number = (text) => parseFloat(text.replace(/,/g, "").replace("\u2212", "-"));
  const value = (row, place, isText) => {
    const text = row.cells[place].textContent;
    return isText ? text : number(text);
  };
  const order = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  const sort = (head) => {
    const table = head.closest("table");
    const place = head.cellIndex;
    const isText = head.classList.contains("text");
    const wasAscending = head.getAttribute("aria-sort") === "ascending";
    const wasDescending = head.getAttribute("aria-sort") === "descending";
    const sign = isText ? (wasAscending ? -1 : 1) : wasDescending ? 1 : -1;
    const rows = all("tbody tr", table).map((row) => [value(row, place, isText), row]);
    rows.sort(([a], [b]) => Number.isNaN(a) - Number.isNaN(b) || sign * order(a, b) || 0);
    table.tBodies[0].append(...rows.map(([, row]) => row));
    all("th", table).forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  };
  all("th button").forEach((b) => b.addEventListener("click", () => sort(b.closest("th"))));

  // Rows of a table and cards of a gallery that do not contain what is typed are hidden.
  all(".filter input").forEach((input) => {
    const rows = all("tbody tr, .cards > li", input.closest(".table, .group"));
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase();
      rows.forEach((row) => { row.hidden = !row.textContent.toLowerCase().includes(wanted); });
    });
  });

  // Methods: a chip brings one forward everywhere; again, or Escape, brings all back.
  const chips = all("button.chip");
  const highlight = (method) => {
    all("[data-m]").forEach((element) => {
      element.classList.toggle("off", method !== null && element.dataset.m !== method);
    });
    chips.forEach((chip) => chip.setAttribute("aria-pressed", String(chip.dataset.m === method)));
  };
  const isPressed = (chip) => chip.getAttribute("aria-pressed") === "true";
  chips.forEach((chip) => chip.addEventListener("click", () => {
    highlight(isPressed(chip) ? null : chip.dataset.m);
  }));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && chips.some(isPressed)) highlight(null);
  });
})();
