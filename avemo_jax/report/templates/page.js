// Draws the charts again, so that they answer to the pointer, and makes the maps of clips work. Without it the
// page shows the same numbers and still pictures of the same charts.
(() => {
  "use strict";
  if (!window.vegaEmbed) { // a page without charts
    document.documentElement.dataset.drawn = "all";
    return;
  }
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const numbers = read("numbers"), charts = read("charts"), strips = read("strips"), styles = read("styles");

  const element = (name, text, attributes = {}) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };

  // The still picture stays until the live one is ready, and when that fails.
  async function draw(plot, rows) {
    const { spec, table } = charts[plot.dataset.chart];
    const live = element("div", undefined, { class: "live waiting" });
    plot.prepend(live);
    const whole = { ...spec, datasets: { ...spec.datasets, [table]: rows || numbers.tables[table] } };
    const { view } = await vegaEmbed(live, whole, { renderer: "svg", actions: false, tooltip: { theme: "own" } });
    for (const still of plot.querySelectorAll(":scope > svg")) still.remove();
    live.classList.remove("waiting");
    return view;
  }

  async function map(figure) {
    const entry = numbers.maps[figure.dataset.map], data = numbers.data[entry.data];
    const places = numbers.tables[entry.table], strip = strips[entry.data];
    const by = figure.querySelector(".by"), only = figure.querySelector(".only");
    const legend = figure.querySelector(".legend"), shown = figure.querySelector(".shown");
    const none = { key: "", names: [], of: [], values: [] };
    let grouping = none, chosen = null;

    const style = (index) => {
      const name = grouping.names[index];
      return name === undefined || name === styles.nothing ? styles.none : styles.groups[index];
    };
    const visible = (row) => only.value === "" || grouping.values[row.clip] === only.value;
    const rows = () => {
      const drawn = places.map((row) => {
        const how = { ...row, ...style(grouping.of[row.clip]), ...(visible(row) ? styles.plain : styles.faded) };
        return row === chosen ? { ...how, size: styles.chosen_size } : how;
      });
      return drawn.sort((a, b) => a.size - b.size || a.opacity - b.opacity);
    };

    function group() {
      grouping = data.groupings[by.value] || none;
      const counts = new Map();
      for (const row of places) {
        const value = grouping.values[row.clip];
        if (value !== undefined) counts.set(value, (counts.get(value) || 0) + 1);
      }
      const sorted = [...counts].sort((a, b) => a[0].localeCompare(b[0], "en", { numeric: true }));
      only.replaceChildren(element("option", `all ${places.length} clips`, { value: "" }));
      for (const [value, count] of sorted) only.append(element("option", `${value} (${count})`, { value }));
      const sizes = grouping.names.map((_, index) => places.filter((row) => grouping.of[row.clip] === index).length);
      legend.replaceChildren(...grouping.names.map((name, index) => {
        const item = element("li"), { colour, shape } = style(index);
        item.innerHTML = `<svg class="mark" viewBox="-6 -6 12 12" aria-hidden="true"><path fill="${colour}" d="${styles.marks[shape]}"/></svg>`;
        item.append(element("span", name), element("span", sizes[index], { class: "value" }));
        return item;
      }));
    }

    function show(row) {
      chosen = row;
      const clip = data.clips[row.clip], list = element("dl");
      const facts = { clip: clip.clip_id, ...clip.labels, speaker: clip.speaker, gender: clip.gender, split: clip.split,
        length: `${clip.duration_s} s`, text: clip.text };
      for (const [name, fact] of Object.entries(facts)) if (fact) list.append(element("dt", name), element("dd", fact));
      const alt = `${clip.clip_id}: frames from its beginning, middle and end`;
      const picture = strip[row.clip] ? [element("img", undefined, { src: strip[row.clip], alt })] : [];
      shown.replaceChildren(...picture, list);
    }

    if (data.groupings.length) group(); else figure.querySelector(".controls").hidden = true;
    show(places[0]);
    const plot = figure.querySelector(".plot"), view = await draw(plot, rows());
    const table = entry.table, again = () => view.data(table, rows()).runAsync();

    // The nearest clip is meant, so that a finger will do.
    function near(event) {
      const frame = plot.querySelector(".live svg").getBoundingClientRect(), [left, top] = view.origin();
      const x = event.clientX - frame.left - left, y = event.clientY - frame.top - top;
      let best = null, least = Infinity;
      for (const row of places) {
        if (!visible(row)) continue;
        const far = (view.scale("x")(row.x) - x) ** 2 + (view.scale("y")(row.y) - y) ** 2;
        if (far < least) [best, least] = [row, far];
      }
      if (best && best !== chosen) { show(best); again(); }
    }
    // Previous and next along the map, from left to right: neighbours there are often neighbours.
    function move(by) {
      const order = places.filter(visible).sort((a, b) => a.x - b.x);
      if (!order.length) return;
      const next = order.indexOf(chosen) + by;
      show(order[(next + order.length) % order.length]);
      again();
    }
    plot.addEventListener("pointermove", near);
    plot.addEventListener("pointerdown", near);
    figure.querySelector(".before").addEventListener("click", () => move(-1));
    figure.querySelector(".after").addEventListener("click", () => move(1));
    by.addEventListener("change", () => { group(); again(); });
    only.addEventListener("change", () => {
      if (!visible(chosen)) show(places.find(visible));
      again();
    });
  }

  const open = (all) => document.querySelectorAll("details").forEach((each) => { each.open = all; });
  window.addEventListener("beforeprint", () => open(true));
  window.addEventListener("afterprint", () => open(false));

  const drawn = [...document.querySelectorAll("figure.map")].map(map);
  for (const plot of document.querySelectorAll("figure:not(.map) .plot")) drawn.push(draw(plot));
  Promise.allSettled(drawn).then((ended) => {
    for (const each of ended) if (each.status === "rejected") console.error(each.reason);
    document.documentElement.dataset.drawn = ended.every((each) => each.status === "fulfilled") ? "all" : "not all";
  });
})();
