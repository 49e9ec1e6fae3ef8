// Rows sorted by a column, by the head on wide screens and by the list on narrow ones, and found by a part of a name.
for (const table of document.querySelectorAll("table.rows")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const words = new Intl.Collator(undefined, { numeric: true }); // layer 2 before layer 10
  const tools = table.closest("section").querySelector(".tools");
  const [found, order, count] = ["input", "select", "output"].map((kind) => tools.querySelector(kind));

  for (const { cells: [name] } of rows) { // long names are broken after a dot, not within a word
    name.replaceChildren(...name.textContent.split(/(?<=[._/])/).flatMap((part) => [part, document.createElement("wbr")]));
  }

  const sort = (k, descending) => {
    const isNumber = "number" in heads[k].dataset;
    const value = (row) => (isNumber ? row.cells[k].dataset.value : row.cells[k].textContent);
    const compare = (x, y) => (isNumber ? x - y : words.compare(x, y)) * (descending ? -1 : 1);
    const pairs = rows.map((row) => [value(row), row]);
    const empty = pairs.filter(([x]) => x === undefined); // what has no number comes last, whatever the order
    const rest = pairs.filter(([x]) => x !== undefined).sort(([x], [y]) => compare(x, y));
    body.append(...[...rest, ...empty].map(([, row]) => row));
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[k].setAttribute("aria-sort", descending ? "descending" : "ascending");
  };

  heads.forEach((head, k) => head.querySelector("button").addEventListener("click", () => {
    const now = head.getAttribute("aria-sort");
    sort(k, now ? now === "ascending" : "number" in head.dataset);
  }));
  order.addEventListener("change", () => {
    const [k, way] = order.value.split(" ");
    sort(Number(k), way === "descending");
  });
  found.addEventListener("input", () => {
    const wanted = found.value.toLowerCase();
    for (const row of rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
    count.textContent = wanted && `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  });
  tools.hidden = false;
  sort(0, false);
}
