"use strict";
// What pages have in common: their data, elements, numbers, and plots of curves.
const D = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7b4ea3", "#b22222"];
const colour = row => COLOURS[Math.max(0, D.rows.indexOf(row)) % COLOURS.length];
const $ = id => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value); else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}
function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
function fill(select, values, chosen) {
  select.replaceChildren(...values.map(value => make("option", {value}, value)));
  if (values.includes(chosen)) select.value = chosen;
}
function ticks(low, high, count) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find(m => m * power >= raw) || 10), found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) found.push(+v.toPrecision(12));
  return found;
}
const digits = (value, places, sign) => value == null ? "" : (sign && value >= 0 ? "+" : "") + value.toFixed(places).replace("-", "\u2212");
const dot = row => make("span", {class: "dot", style: `background:${colour(row)}`});

// A table head that sorts: `columns` are [key, title, numeric]; `changed` draws the table anew.
function sortable(columns, state, changed) {
  return make("tr", {}, ...columns.map(([key, title, numeric]) => {
    const head = make("th", {"data-key": key, tabindex: 0, class: numeric ? "n" : ""}, title);
    if (state.sort === key) head.setAttribute("aria-sort", state.up ? "ascending" : "descending");
    const sort = () => { state.up = state.sort === key ? !state.up : !numeric; state.sort = key; changed(); };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
    return head;
  }));
}
function sorted(rows, value, up) {
  return rows.slice().sort((a, b) => {
    const x = value(a), y = value(b);
    if (x == null || y == null) return (x == null) - (y == null);
    return (x < y ? -1 : x > y ? 1 : 0) * (up ? 1 : -1);
  });
}
// Buttons that hide rows and show them again.
function legend(element, rows, hidden, changed) {
  element.replaceChildren(...rows.map(row => make("button", {"aria-pressed": String(!hidden.has(row)), onclick: () => {
    if (!hidden.delete(row)) hidden.add(row);
    changed();
  }}, dot(row), row)));
}
// Lines by row: {x, mean}, with a band where there are `low` and `high`, a faint line where there is `raw`.
function plotted(label, lines, rows, width, height) {
  const pad = [60, 16, 14, 34], all = key => rows.flatMap(row => lines[row][key] || []);
  const xs = all("x"), ys = [...all("mean"), ...all("low"), ...all("high"), ...all("raw")];
  if (!xs.length) return "";
  const extent = values => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
  const [x0, x1] = extent(xs), [y0, y1] = extent(ys);
  const x = v => pad[0] + (v - x0) / ((x1 - x0) || 1) * (width - pad[0] - pad[1]), y = v => height - pad[3] - (v - y0) / ((y1 - y0) || 1) * (height - pad[2] - pad[3]);
  const plot = svg("svg", {viewBox: `0 0 ${width} ${height}`, width: "100%", role: "img", "aria-label": label});
  for (const v of ticks(y0, y1, 6)) plot.append(svg("line", {x1: pad[0], x2: width - pad[1], y1: y(v), y2: y(v), stroke: "#e5e9ee"}), svg("text", {x: pad[0] - 8, y: y(v) + 4, "text-anchor": "end"}, String(v)));
  for (const v of ticks(x0, x1, width / 145)) plot.append(svg("text", {x: x(v), y: height - 12, "text-anchor": "middle"}, v.toLocaleString("en")));
  const path = (l, key) => l.x.map((v, i) => `${x(v)},${y(l[key][i])}`);
  for (const row of rows) {
    const l = lines[row], tint = colour(row), few = l.x.length <= 60;
    if (l.low) plot.append(svg("polygon", {points: [...path(l, "high"), ...path(l, "low").reverse()].join(" "), fill: tint, opacity: .13}));
    if (l.raw) plot.append(svg("polyline", {points: path(l, "raw").join(" "), fill: "none", stroke: tint, opacity: .22}));
    plot.append(svg("polyline", {points: path(l, "mean").join(" "), fill: "none", stroke: tint, "stroke-width": 2}));
    const about = i => `${row}, iteration ${l.x[i].toLocaleString("en")}: ${l.mean[i].toPrecision(5)}${l.low ? ` (${l.low[i].toPrecision(5)} to ${l.high[i].toPrecision(5)})` : ""}`;
    plot.append(...l.x.map((v, i) => svg("circle", {cx: x(v), cy: y(l.mean[i]), r: few ? 3 : 5, fill: few ? tint : "#0000"}, svg("title", {}, about(i)))));
  }
  return plot;
}
