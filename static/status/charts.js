// Three charts over the last requests, oldest on the left.

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { byId, setText } from "./dom.js";
import { duration, percent, rate } from "./format.js";

const HEIGHT_PX = 132;
const CHARTS = [
  { id: "ttft", color: "--accent", value: (row) => row.ttft_ms ?? null, text: duration },
  { id: "prefill", color: "--prefill", value: (row) => row.prefill_tok_s || null, text: (v) => `${rate(v)} tok/s` },
  {
    id: "decode",
    color: "--decode",
    value: (row) => row.decode_tok_s ?? null,
    text: (v) => `${rate(v)} tok/s`,
    second: { color: "--write", value: (row) => row.accept_rate ?? null, text: (v) => `${percent(v)} accepted` },
  },
];

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class Chart {
  constructor(spec) {
    this.spec = spec;
    this.box = byId(`chart-${spec.id}`);
    this.now = byId(`chart-${spec.id}-now`);
    this.data = [[], []];
    this.rows = [];
    this.build();
  }

  build() {
    this.plot?.destroy();
    const { spec } = this;
    const line = (color, dash) => ({
      stroke: css(color),
      width: 1.5,
      dash,
      spanGaps: true,
      points: { show: true, size: 5, fill: css(color), stroke: css(color) },
    });
    const axis = (scale, side) => ({
      scale,
      side,
      size: 44,
      stroke: css("--faint"),
      font: `11px ${css("--sans")}`,
      grid: { show: side === 3, stroke: css("--line"), width: 1 },
      ticks: { show: false },
      space: 26,
      values: (_, values) => values.map((v) => (scale === "share" ? percent(v) : scale === "ttft" ? duration(v) : rate(v).replace(/\.0$/, ""))),
    });
    const top = (_, __, max) => [0, (max || 1) * 1.15];
    const y = spec.id;
    const options = {
      width: Math.max(120, this.box.clientWidth),
      height: HEIGHT_PX,
      legend: { show: false },
      padding: [8, 8, 4, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 8 } },
      scales: { x: { time: false, range: (_, min, max) => (min === max ? [min - 1, max + 1] : [min, max]) }, [y]: { range: top }, share: { range: [0, 1] } },
      axes: [{ show: false }, axis(y, 3)],
      series: [{}, { scale: y, ...line(spec.color) }],
      hooks: { setCursor: [(plot) => this.caption(plot.cursor.idx)] },
    };
    if (spec.second) {
      options.series.push({ scale: "share", ...line(spec.second.color, [4, 3]) });
      if (this.rows.some((row) => spec.second.value(row) !== null)) options.axes.push(axis("share", 1));
    }
    this.plot = new uPlot(options, this.data, this.box);
  }

  show(rows) {
    const { spec } = this;
    const hadSecond = spec.second && this.rows.some((row) => spec.second.value(row) !== null);
    this.rows = rows;
    this.data = [rows.map((_, index) => index), rows.map(spec.value)];
    if (spec.second) this.data.push(rows.map(spec.second.value));
    const hasSecond = spec.second && rows.some((row) => spec.second.value(row) !== null);
    if (hasSecond && !hadSecond) this.build();
    else this.plot.setData(this.data);
    this.box.dataset.points = String(rows.length);
    this.caption(null);
  }

  caption(index) {
    const known = this.rows.filter((row) => this.spec.value(row) !== null);
    const row = index === null || index === undefined ? known.at(-1) : this.rows[index];
    const parts = [];
    if (row && this.spec.value(row) !== null) parts.push(this.spec.text(this.spec.value(row)));
    const second = row && this.spec.second?.value(row);
    if (second !== undefined && second !== null) parts.push(this.spec.second.text(second));
    setText(this.now, parts.join(" · ") || "–");
  }

  resize() {
    this.plot.setSize({ width: Math.max(120, this.box.clientWidth), height: HEIGHT_PX });
  }
}

export class Charts {
  constructor() {
    this.charts = CHARTS.map((spec) => new Chart(spec));
    this.shown = null;
    new ResizeObserver(() => this.charts.forEach((chart) => chart.resize())).observe(byId("main"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.charts.forEach((chart) => chart.build()));
  }

  show(history) {
    if (history === this.shown) return;
    this.shown = history;
    for (const chart of this.charts) chart.show(history);
  }
}
