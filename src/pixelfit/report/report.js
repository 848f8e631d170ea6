"use strict";

// Tables that are sorted by a click on a column's name: by number where cells have one, else by their text.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("thead th")];
  const valueOf = (row, place) => {
    const cell = row.children[place];
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  };
  const compare = (one, other) =>
    typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other), "en", { numeric: true });
  heads.forEach((head, place) => {
    head.querySelector("button").addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((one, other) => compare(valueOf(one, place), valueOf(other, place)) * (falling ? -1 : 1));
      table.tBodies[0].append(...rows);
    });
  });
}

// The pictures behind a number of the confusion matrix. Words from the data go in as text only.
const record = document.getElementById("cells");
if (record) {
  const { width, height, labels, cells } = JSON.parse(record.textContent);
  const panel = document.getElementById("cell-pictures");
  const zoom = Math.max(1, Math.round(84 / Math.max(width, height)));
  const buttons = [...document.querySelectorAll("button.cell")];
  const picture = ([left, top, name]) => {
    const item = document.createElement("li");
    const tile = document.createElement("span");
    tile.className = "tile";
    tile.style.cssText = `width:${width}px;height:${height}px;zoom:${zoom};background-position:-${left}px -${top}px`;
    const caption = document.createElement("span");
    caption.className = "caption dim ref";
    caption.textContent = name;
    item.append(tile, caption);
    return item;
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      const [actual, predicted] = button.dataset.cell.split("-").map(Number);
      const found = cells[button.dataset.cell] ?? [];
      const count = Number(button.textContent);
      const words = document.createElement("p");
      const many = count === 1 ? "picture" : "pictures";
      const right = actual === predicted;
      words.textContent = right
        ? `${count} ${many} of ${labels[actual]}, predicted right`
        : `${count} ${many} of ${labels[actual]}, taken for ${labels[predicted]}`;
      if (found.length < count) words.textContent += found.length ? ` (${found.length} of them here)` : " (none of them is in the report)";
      const list = document.createElement("ul");
      list.className = "gallery small";
      list.append(...found.map(picture));
      panel.replaceChildren(words, list);
    });
  }
}
