// The last hour, as the server has kept it, and the last requests, each where it ended. Time goes to the right.

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { byId, setText } from "./dom.js";
import { count, duration, percent, percentile, rate } from "./format.js";

const HEIGHT_PX = 148;
const FEWEST_TOKENS = 8;
/** A speed over fewer tokens says more of the clock than of the model. */
const perSecond = (value) => `${rate(value)} tok/s`;
const milliseconds = (value) => duration(Math.round(value));

// A line: a colour, its name, what it is of a bucket or of a request, and how that is written.
const HOUR = [
  {
    id: "load",
    text: count,
    lines: [
      { color: "--decode", name: "busy slots", column: "busy" },
      { color: "--queued", name: "waiting", column: "waiting", dash: [4, 3] },
      { color: "--bad", name: "refused", column: "refused", dash: [1, 3], isRare: true },
    ],
  },
  {
    id: "waits",
    text: milliseconds,
    lines: [
      { color: "--accent", name: "first token p50", column: "ttft_ms_p50", points: true },
      { color: "--prefill", name: "p95", column: "ttft_ms_p95", dash: [4, 3], points: true },
      { color: "--queued", name: "queue p95", column: "queue_ms_p95", dash: [1, 3], points: true },
    ],
  },
  {
    id: "speeds",
    text: perSecond,
    lines: [
      { color: "--decode", name: "out", column: "decode_tok_s" },
      { color: "--prefill", name: "in", column: "prefill_tok_s", dash: [4, 3] },
      { color: "--accent", name: "one stream p50", column: "stream_tok_s_p50", points: true, isAlone: true },
    ],
  },
];
const LAST = [
  { id: "ttft", text: milliseconds, lines: [{ color: "--accent", of: (row) => row.ttft_ms ?? null }] },
  {
    id: "prefill",
    text: perSecond,
    lines: [{ color: "--prefill", of: (row) => (enough(row.prompt_tokens - (row.cached_tokens ?? 0)) && row.prefill_tok_s) || null }],
  },
  {
    id: "decode",
    text: perSecond,
    lines: [
      { color: "--decode", of: (row) => (enough(row.completion_tokens) ? (row.decode_tok_s ?? null) : null) },
      { color: "--write", name: "drafts accepted", of: (row) => row.accept_rate ?? null, isShare: true },
    ],
  },
];

const enough = (tokens) => tokens >= FEWEST_TOKENS;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const isNumber = (value) => value !== null && value !== undefined;

class Chart {
  constructor(spec) {
    this.spec = spec;
    this.box = byId(`chart-${spec.id}`);
    this.now = byId(`chart-${spec.id}-now`);
    this.data = [[], ...spec.lines.map(() => [])];
    this.build();
  }

  build() {
    this.plot?.destroy();
    const { spec } = this;
    const hasShare = spec.lines.some((line, index) => line.isShare && this.data[index + 1].some(isNumber));
    const axis = (scale, side, text) => ({
      scale,
      side,
      size: (plot, values) => (values ? Math.max(30, 12 + 6.4 * Math.max(...values.map((value) => value.length))) : 44),
      stroke: css("--dim"),
      font: `11px ${css("--sans")}`,
      grid: { show: side === 3, stroke: css("--line"), width: 1 },
      ticks: { show: false },
      space: 30,
      values: (_, values) => values.map(text),
    });
    this.plot = new uPlot(
      {
        width: Math.max(120, this.box.clientWidth),
        height: HEIGHT_PX,
        legend: { show: false },
        padding: [8, 22, 0, 0],
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
        scales: {
          x: { time: true, range: (_, min, max) => (isNumber(min) ? [Math.min(min, max - 60), max] : [Date.now() / 1000 - 60, Date.now() / 1000]) },
          y: { range: (_, min, max) => [0, (max || 1) * 1.15] },
          share: { range: [0, 1] },
        },
        axes: [
          { stroke: css("--dim"), font: `11px ${css("--sans")}`, grid: { show: false }, ticks: { show: false }, size: 24, space: 64, values: (_, values) => values.map(hourAndMinute) },
          axis("y", 3, (value) => spec.text(value).replace(/\.0(?= |$)/, "").replace(" tok/s", "")),
          ...(hasShare ? [axis("share", 1, percent)] : []),
        ],
        series: [
          {},
          ...spec.lines.map((line) => ({
            scale: line.isShare ? "share" : "y",
            stroke: css(line.color),
            width: 1.5,
            dash: line.dash,
            spanGaps: false,
            points: { show: !line.column || Boolean(line.points), size: 5, fill: css(line.color), stroke: css(line.color) },
          })),
        ],
        hooks: { setCursor: [(plot) => this.caption(plot.cursor.idx)] },
      },
      this.data,
      this.box,
    );
    this.hasShare = hasShare;
  }

  show(data) {
    this.data = data;
    const hasShare = this.spec.lines.some((line, index) => line.isShare && data[index + 1].some(isNumber));
    if (hasShare && !this.hasShare) this.build();
    else this.plot.setData(data);
    this.box.dataset.points = String(data[0].length);
    this.caption(null);
  }

  /** What is under the cursor; without one, what is typical. */
  caption(index) {
    const isOver = isNumber(index);
    const parts = this.spec.lines.map((line, number) => this.#said(line, this.data[number + 1], isOver ? index : null));
    const shown = parts.filter(Boolean);
    if (isOver && shown.length) shown.unshift(hourAndMinute(this.data[0][index], true));
    const text = shown.join(" · ") || (isOver ? "–" : this.empty);
    setText(this.now, text);
    if (!isOver) this.box.setAttribute("aria-label", text);
  }

  #said(line, values, index) {
    const text = line.isShare ? percent : this.spec.text;
    const named = (value) => (line.name ? `${line.name} ${text(value)}` : text(value));
    if (index !== null) return isNumber(values[index]) ? named(values[index]) : undefined;
    const known = values.filter(isNumber);
    if (!known.length) return undefined;
    if (line.column) return line.isRare && !known.at(-1) ? undefined : named(known.at(-1));
    if (line.isShare) return `${line.name} ${percent(known.reduce((sum, value) => sum + value, 0) / known.length)}`;
    return `p50 ${text(percentile(known, 0.5))} · p95 ${text(percentile(known, 0.95))}`;
  }

  resize() {
    this.plot.setSize({ width: Math.max(120, this.box.clientWidth), height: HEIGHT_PX });
  }
}

function hourAndMinute(at, withSeconds) {
  return new Date(1000 * at).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...(withSeconds && { second: "2-digit" }) });
}

export class Charts {
  constructor() {
    const make = (spec, empty) => Object.assign(new Chart(spec), { empty });
    this.hour = HOUR.map((spec) => make(spec, "nothing yet"));
    this.last = LAST.map((spec) => make(spec, "no requests yet"));
    const all = [...this.hour, ...this.last];
    new ResizeObserver(() => all.forEach((chart) => chart.resize())).observe(byId("main"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => all.forEach((chart) => chart.build()));
  }

  show({ hour, history }) {
    if (hour !== this.shownHour) {
      this.shownHour = hour;
      for (const chart of this.hour) chart.show([hour.columns.at ?? [], ...chart.spec.lines.map((line) => hour.columns[line.column] ?? [])]);
    }
    if (history !== this.shownHistory) {
      this.shownHistory = history;
      const rows = history.toSorted((a, b) => a.finished_at - b.finished_at);
      for (const chart of this.last) chart.show([rows.map((row) => row.finished_at), ...chart.spec.lines.map((line) => rows.map(line.of))]);
    }
  }
}
