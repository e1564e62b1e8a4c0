// The explorer's two parts: choices, a slider, a chart and a table each. Numbers come with the page; nothing is fetched.
"use strict";

(() => {
  const source = document.getElementById("explorer-numbers");
  if (!source) return;
  const numbers = JSON.parse(source.textContent);
  const COLOURS = {
    cp3: "#0072B2", cp: "#56B4E9", spatial_svd: "#D55E00", svd: "#E69F00", tucker2: "#009E73", tucker: "#8FBC5A", tt: "#CC79A7",
    ttm: "#7F7F7F",
  };
  const STAGES = { raw: "as factored", batchnorm: "BatchNorm's statistics anew" };
  const OTHERS = ["#222288", "#882255", "#8C6D31", "#44AA99"];
  const SIZE = { width: 640, height: 320, left: 62, right: 26, top: 12, bottom: 44 };

  const made = (name, attributes = {}, ...children) => {
    const spaces = ["svg", "line", "path", "circle", "text", "g"];
    const node = spaces.includes(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  // A format has its colour everywhere; what is none takes one of the others, by its place among the names.
  const colour = (name, names) => COLOURS[name] || OTHERS[names.filter((one) => !(one in COLOURS)).indexOf(name) % OTHERS.length];
  const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;
  const short = (value) => (value === null ? "–" : value < 0.001 ? value.toExponential(1) : value.toPrecision(3));

  // A labelled choice among names; `changed` is called when another one is picked.
  const choice = (label, names, changed) => {
    const box = made("select", { "aria-label": label });
    const fill = (given) => {
      const before = box.value;
      box.replaceChildren(...Object.entries(given).map(([value, text]) => made("option", { value }, text)));
      if (before in given) box.value = before;
    };
    fill(names);
    box.addEventListener("change", changed);
    return { node: made("label", {}, `${label} `, box), value: () => box.value, fill, set: (value) => { box.value = value; } };
  };
  const slider = (label, changed) => {
    const input = made("input", { type: "range", min: 5, max: 100, step: 1, value: 40, "aria-label": label });
    const shown = made("output", {}, "40 %");
    input.addEventListener("input", () => { shown.textContent = `${input.value} %`; changed(); });
    return { node: made("label", {}, `${label} `, input, " ", shown), value: () => input.value / 100 };
  };
  const same = (names) => Object.fromEntries(names.map((name) => [name, name]));

  // Lines of points [x, y] by name, y on a logarithmic or a plain axis, and a mark at x.
  const chart = (lines, mark, labels, logarithmic) => {
    const svg = made("svg", { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: "img", "aria-label": `${labels.y} against ${labels.x}` });
    const all = Object.values(lines).flat().map(([, y]) => y).filter((y) => y !== null && (!logarithmic || y > 0));
    if (!all.length) return svg;
    let [low, high] = [Math.min(...all), Math.max(...all)];
    if (logarithmic) [low, high] = [Math.max(low, high * 1e-6), high];
    const scale = logarithmic ? Math.log10 : (y) => y;
    const [bottom, top] = logarithmic ? [Math.floor(scale(low)), Math.ceil(scale(high))] : [Math.floor(low * 10) / 10, Math.ceil(high * 10) / 10];
    const across = (x) => SIZE.left + x * (SIZE.width - SIZE.left - SIZE.right);
    const up = (y) => SIZE.height - SIZE.bottom - ((Math.max(scale(y), bottom) - bottom) / (top - bottom || 1)) * (SIZE.height - SIZE.top - SIZE.bottom);
    const ticks = logarithmic ? Array.from({ length: top - bottom + 1 }, (_, k) => 10 ** (bottom + k))
      : Array.from({ length: Math.round((top - bottom) * 10) + 1 }, (_, k) => bottom + k / 10);
    for (const y of ticks) {
      svg.append(made("line", { x1: across(0), x2: across(1), y1: up(y), y2: up(y), class: "grid" }));
      const text = logarithmic ? (y >= 0.001 ? String(Number(y.toPrecision(1))) : y.toExponential(0)) : percent(y, 0);
      svg.append(made("text", { x: across(0) - 6, y: up(y) + 4, "text-anchor": "end" }, text));
    }
    for (const x of [0, 0.2, 0.4, 0.6, 0.8, 1]) svg.append(made("text", { x: across(x), y: SIZE.height - SIZE.bottom + 16, "text-anchor": "middle" }, percent(x, 0)));
    svg.append(made("text", { x: across(0.5), y: SIZE.height - 6, "text-anchor": "middle" }, labels.x));
    svg.append(made("line", { x1: across(mark), x2: across(mark), y1: SIZE.top, y2: SIZE.height - SIZE.bottom, class: "mark" }));
    for (const [name, points] of Object.entries(lines)) {
      const kept = points.filter(([x, y]) => y !== null && x <= 1 && (!logarithmic || y > 0)).sort((a, b) => a[0] - b[0]);
      const paint = colour(name, Object.keys(lines));
      const d = kept.map(([x, y], n) => `${n ? "L" : "M"}${across(x).toFixed(1)} ${up(y).toFixed(1)}`).join("");
      const group = made("g", { "data-name": name }, made("path", { d, stroke: paint, fill: "none", "stroke-width": 1.6 }));
      for (const [x, y] of kept) group.append(made("circle", { cx: across(x).toFixed(1), cy: up(y).toFixed(1), r: 2.6, fill: paint }));
      svg.append(group);
    }
    return svg;
  };

  // Rows of cells below a head; the first cell has its line's colour.
  const table = (head, rows, names) => {
    const body = rows.map((cells) => {
      const dot = made("span", { class: "dot", style: `background: ${colour(cells[0], names)}` });
      return made("tr", {}, made("td", {}, dot, ` ${cells[0]}`), ...cells.slice(1).map((cell) => made("td", {}, cell)));
    });
    return made("table", {}, made("thead", {}, made("tr", {}, ...head.map((cell) => made("th", {}, cell)))), made("tbody", {}, ...body));
  };

  const ofLayers = (place) => {
    const shown = made("div");
    const networks = Object.keys(numbers.layers);
    if (!networks.length) { place.append("No record yet."); return; }
    const draw = () => {
      const { dense, curves } = numbers.layers[network.value()];
      layer.fill(same(Object.keys(dense)));
      const [params, macs] = dense[layer.value()];
      const by = curves[layer.value()][norm.value()] || {};
      const names = Object.keys(by), at = share.value(), rows = [];
      const lines = Object.fromEntries(names.map((name) => [name, by[name].map(([, , m, loss]) => [m / macs, loss])]));
      for (const name of names) {
        const best = by[name].filter(([, , m]) => m <= at * macs).sort((a, b) => a[3] - b[3])[0];
        rows.push(best ? [name, best[0], percent(best[2] / macs), percent(best[1] / params), short(best[3])] : [name, "out of reach", "", "", ""]);
      }
      rows.sort((a, b) => (a[4] === "") - (b[4] === "") || Number(a[4]) - Number(b[4]));
      const head = ["format", "rank", "multiplications", "parameters", "error"];
      shown.replaceChildren(chart(lines, at, { x: "share of the layer's multiplications", y: "error" }, true), table(head, rows, names));
    };
    const network = choice("Network", same(networks), draw), layer = choice("Layer", same(Object.keys(numbers.layers[networks[0]].dense)), draw);
    const norm = choice("Error of", numbers.norms, draw), share = slider("Share left", draw);
    const names = Object.keys(numbers.layers[networks[0]].dense);
    layer.set(names[Math.floor(names.length / 2)]);
    norm.set("input");
    place.append(made("form", {}, network.node, layer.node, norm.node, share.node), shown);
    draw();
  };

  const ofNetworks = (place) => {
    const shown = made("div"), networks = Object.keys(numbers.networks);
    if (!networks.length) { place.append("No record yet."); return; }
    const draw = () => {
      const { original, points } = numbers.networks[network.value()];
      const normed = Object.values(points).flat().some((row) => row[3] !== null);
      stage.fill(normed ? { raw: STAGES.raw, batchnorm: STAGES.batchnorm } : { raw: STAGES.raw });
      const which = stage.value() === "raw" ? 2 : 3, at = share.value(), names = Object.keys(points);
      const lines = Object.fromEntries(names.map((name) => [name, points[name].map((row) => [row[0], row[which]])]));
      const rows = names.map((name) => {
        const under = points[name].filter((row) => row[0] <= at + 0.005 && row[which] !== null).sort((a, b) => b[0] - a[0])[0];
        return under ? [name, percent(under[0]), percent(under[1]), percent(under[which], 2)] : [name, "out of reach", "", ""];
      });
      rows.sort((a, b) => (parseFloat(b[3]) || 0) - (parseFloat(a[3]) || 0));
      const head = ["format", "multiplications", "parameters", `right (original: ${percent(original, 2)})`];
      shown.replaceChildren(chart(lines, at, { x: "share of the network's multiplications", y: "right answers" }, false), table(head, rows, names));
    };
    const network = choice("Network", same(networks), draw), share = slider("Share left", draw);
    const stage = choice("Accuracy", STAGES, draw);
    if (networks.includes("resnet20-cifar10")) network.set("resnet20-cifar10");
    stage.set("batchnorm");
    place.append(made("form", {}, network.node, stage.node, share.node), shown);
    draw();
  };

  ofLayers(document.getElementById("explorer-layer"));
  ofNetworks(document.getElementById("explorer-network"));
})();
