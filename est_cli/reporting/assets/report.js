"use strict";
/* Draws the pictures of a report from the numbers in #data. Names of runs are only ever set as text. */
(() => {
  const view = { axis: null, logX: false, logY: false, smooth: true, zoom: null, toggled: new Set(), theme: null };
  let data, plots = [], small = [];

  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  /* Colours and numbers */

  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const color = (name, alpha = 1) => {
    probe.style.color = `var(${name})`;
    const rgb = getComputedStyle(probe).color;
    return alpha === 1 ? rgb : rgb.replace("rgb(", "rgba(").replace(")", `, ${alpha})`);
  };
  const group = (value, digits) => value.toLocaleString("en-US", { maximumSignificantDigits: digits });
  const tick = (value) => (value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(1) : group(value, 6));
  const exact = (value) => (value === null || value === undefined ? "-" : Math.abs(value) < 0.01 && value !== 0
    ? value.toExponential(4) : group(value, 7));
  const loss = (value) => (value === null || value === undefined ? "-" : value.toFixed(4));

  /* Scales: as far as the numbers go and no further, with ticks at round numbers also where a logarithm is taken. */

  function roundTicks(low, high) {
    const raw = (high - low) / 6, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= raw);
    const found = [];
    for (let n = Math.ceil(low / step); n * step <= high * (1 + 1e-12); n++) found.push(Number((n * step).toPrecision(12)));
    return found;
  }
  function logTicks(low, high) {
    if (!(low > 0) || high / low < 12) return roundTicks(low, high);
    const found = [], few = high / low > 1e4;
    for (let p = Math.floor(Math.log10(low)); 10 ** p <= high; p++)
      for (const n of few ? [1] : [1, 2, 5]) if (n * 10 ** p >= low && n * 10 ** p <= high) found.push(n * 10 ** p);
    return found;
  }
  function axis(label, logarithmic, space) {
    return {
      ...(label ? { label, labelSize: 22, labelFont: "13px system-ui, sans-serif" } : {}), size: label ? 32 : space,
      font: "12px system-ui, sans-serif",
      stroke: color("--soft"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 },
      values: (u, splits) => splits.map((value) => (value === null ? "" : tick(value))),
      ...(logarithmic ? { splits: (u, i, low, high) => logTicks(low, high), filter: (u, splits) => splits } : {}),
    };
  }
  const range = (low, high, logarithmic, room = 0.04) => {
    if (low === null || low === undefined) return logarithmic ? [1, 10] : [0, 1];
    if (logarithmic) return [low / (high / low) ** room / 1.002, high * (high / low) ** room * 1.002];
    const more = (high - low) * room || Math.abs(high) * 0.02 || 0.5;
    return [low - more, high + more];
  };

  /* Which groups are shown: those that are told apart, unless toggled. */

  const shown = (g) => (g.look === "rest") === view.toggled.has(g.label);
  const kindOf = (panel) => (panel === "train" && !view.smooth ? "logged" : panel);
  const axisNow = () => data.axes.find((a) => a.key === view.axis);

  /* (x, mean, low, high) of a group, without what has no place on the axis. */
  function columns(g, panel) {
    const curve = g.curves[kindOf(panel)], size = axisNow().size;
    if (!curve) return null;
    const at = curve.x[view.axis];
    const kept = at.map((x, i) => i).filter((i) => at[i] !== null && curve.y[i] !== null && (!view.logX || at[i] > 0));
    if (!kept.length) return null;
    const pick = (values) => kept.map((i) => values[i]);
    const lines = curve.low ? [curve.y, curve.low, curve.high] : [curve.y];
    return [kept.map((i) => at[i] / size), ...lines.map(pick)];
  }

  /* The top of the picture: a plunge in the first 5 % may leave it, as long as nobody has zoomed. */
  function settledTop(tables) {
    let low = Infinity, high = -Infinity, top = -Infinity;
    for (const [x, y, , upper] of tables) {
      const late = x[0] + 0.05 * (x[x.length - 1] - x[0]);
      y.forEach((value, i) => {
        low = Math.min(low, value);
        high = Math.max(high, value);
        if (x[i] >= late) top = Math.max(top, upper ? upper[i] : value);
      });
    }
    return high - low < 1.4 * (top - low) ? high : top;
  }

  /* The index of the nearest point that this curve has; the others' points lie between. */
  function nearest(u, series, index, x) {
    const [xs, ys] = [u.data[0], u.data[series]];
    let left = index, right = index;
    while (left >= 0 && ys[left] == null) left--;
    while (right < ys.length && ys[right] == null) right++;
    if (left < 0) return right < ys.length ? right : null;
    return right < ys.length && xs[right] - x < x - xs[left] ? right : left;
  }

  function buildPlot(panel) {
    const host = one(`#plot-${panel}`);
    host.replaceChildren();
    const drawn = data.groups.map((g, i) => ({ g, i, table: shown(g) ? columns(g, panel) : null })).filter((d) => d.table);
    if (!drawn.length) {
      host.textContent = "Nothing to show along this axis.";
      return null;
    }
    const series = [{}], bands = [], lines = [];
    for (const { g, i, table } of drawn) {
      const stroke = color(`--g-${g.look}`), plain = { spanGaps: true, points: { show: false } };
      lines.push({ group: i, series: series.length });
      series.push({
        ...plain, stroke, width: 1.8, dash: g.dash,
        points: { show: panel === "val" && table[0].length <= 40, size: 5, fill: stroke },
      });
      if (table.length > 2) {
        bands.push({ series: [series.length + 1, series.length], fill: color(`--g-${g.look}`, 0.16) });
        series.push({ ...plain, width: 0, stroke: "transparent" }, { ...plain, width: 0, stroke: "transparent" });
      }
    }
    const staged = drawn.map(({ g }) => g).filter((g) => g.stages[view.axis].length);
    const tables = drawn.map(({ table }) => table), top = settledTop(tables), { name, unit } = axisNow();
    const plot = new uPlot({
      width: host.clientWidth || 300, height: host.clientWidth < 420 ? 250 : 320,
      padding: [8 + 6 * staged.length, 14, 0, 0], legend: { show: false },
      scales: {
        x: { time: false, distr: view.logX ? 3 : 1,
          range: (u, low, high) => (low !== u.data[0][0] ? [low, high] // zoomed
            : view.logX ? range(low, high, true, 0.01) : [0, high || 1]) },
        y: { distr: view.logY ? 3 : 1,
          range: (u, low, high) => range(low, view.zoom || high === null ? high : Math.min(high, top), view.logY) },
      },
      axes: [axis(unit ? `${name} (${unit})` : name, view.logX), { ...axis("", view.logY, 56) }],
      series, bands,
      cursor: {
        drag: { x: true, y: false, dist: 4 }, points: { size: 8 }, dataIdx: nearest,
        sync: { key: "loss", scales: ["x", null], filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
      },
      hooks: {
        setCursor: [(u) => read(u, panel, lines)],
        setScale: [(u, key) => key === "x" && zoomed(u)],
        draw: [(u) => drawStages(u, staged)],
      },
    }, uPlot.join(tables), host);
    return plot;
  }

  /* The stages of each group as a strip above the curves, the fuller the larger its subnetworks; dotted where they end. */
  function drawStages(u, staged) {
    const { ctx } = u, scale = uPlot.pxRatio, size = axisNow().size, { left, top, width, height } = u.bbox;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, 0, width, top + height);
    ctx.clip();
    staged.forEach((g, row) => {
      ctx.fillStyle = ctx.strokeStyle = color(`--g-${g.look}`);
      g.stages[view.axis].forEach(([begin, end, share], i, stages) => {
        const from = u.valToPos(Math.max(begin / size, view.logX ? u.scales.x.min : 0), "x", true);
        const to = u.valToPos(end / size, "x", true);
        ctx.globalAlpha = share;
        ctx.fillRect(from, top - 6 * scale * (staged.length - row), to - from, 4 * scale);
        if (staged.length < 4 && i < stages.length - 1) {
          ctx.globalAlpha = 0.55;
          ctx.setLineDash([scale, 3 * scale]);
          ctx.strokeRect(to, top, 0, height);
        }
      });
    });
    ctx.restore();
  }

  /* The values below the pictures: where the line stands, or at the end. */
  function read(u, panel, lines) {
    const on = u.cursor.left >= 0, { unit, key } = axisNow();
    for (const { group: i, series } of lines) {
      const index = on ? u.cursor.idxs[series] : null;
      const cell = one(`[data-group="${i}"]`).closest("tr").querySelector(`[data-value=${panel}]`);
      const curve = data.groups[i].curves[kindOf(panel)];
      cell.textContent = loss(index === null || index === undefined ? curve.y[curve.y.length - 1] : u.data[series][index]);
    }
    const x = u.posToVal(u.cursor.left, "x");
    one("#at").textContent = !on ? "at the end"
      : key === "steps" ? `at step ${group(Math.round(x), 9)}` : `at ${group(x, 5)} ${unit || key}`;
  }

  /* Zoom: both pictures show the same stretch. */

  const live = () => plots.filter(Boolean);
  const whole = (u) => u.scales.x.range(u, u.data[0][0], u.data[0][u.data[0].length - 1]);
  function zoomed(u) {
    if (!live().includes(u)) return;
    const { min, max } = u.scales.x, [low, high] = whole(u);
    view.zoom = min <= low && max >= high ? null : [min, max];
    one("#reset").disabled = !view.zoom;
    for (const other of live()) if (other.scales.x.min !== min || other.scales.x.max !== max) other.setScale("x", { min, max });
  }
  function drawCurves(keepZoom = true) {
    if (!one("#plot-train")) return;
    const zoom = keepZoom ? view.zoom : null;
    view.zoom = zoom;
    live().forEach((u) => u.destroy());
    plots = [];
    plots = ["train", "val"].map(buildPlot);
    one("#reset").disabled = !zoom;
    if (zoom && live().length) live()[0].setScale("x", { min: zoom[0], max: zoom[1] });
  }
  function byKey(event, panel) {
    const u = plots[panel];
    if (!u || event.ctrlKey || event.metaKey || event.altKey) return;
    const { min, max } = u.scales.x, width = u.over.clientWidth;
    const at = u.cursor.left >= 0 ? u.cursor.left : width / 2;
    const zoom = (factor) => {
      const x = u.posToVal(at, "x"), [low, high] = whole(u);
      u.setScale("x", { min: Math.max(low, x - (x - min) * factor), max: Math.min(high, x + (max - x) * factor) });
    };
    const move = (by) => u.setCursor({ left: Math.min(width, Math.max(0, at + by)), top: 10 }, true, true);
    const actions = {
      ArrowLeft: () => move(event.shiftKey ? -40 : -4), ArrowRight: () => move(event.shiftKey ? 40 : 4),
      Home: () => move(-width), End: () => move(width), "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6),
      0: () => drawCurves(false), Escape: () => drawCurves(false),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  /* Inside of a run: small curves, and a value for each layer and step. */

  const RAMP = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"]
    .map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  const ramp = (share) => {
    const at = Math.min(0.99999, Math.max(0, share)) * (RAMP.length - 1), i = Math.floor(at), part = at - i;
    return `rgb(${RAMP[i].map((c, k) => Math.round(c + (RAMP[i + 1][k] - c) * part)).join(",")})`;
  };

  function drawLine(host, line) {
    host.replaceChildren();
    const looks = ["--g-0", "--g-1"], said = host.parentElement.querySelector("output");
    const u = new uPlot({
      width: host.clientWidth || 300, height: 190, padding: [8, 14, 0, 0], legend: { show: false },
      scales: { x: { time: false }, y: { range: (u, low, high) => range(low, high, false) } },
      axes: [axis(line.x_name, false), axis("", false, 62)],
      series: [{}, ...line.series.map((s, i) => ({ stroke: color(looks[i % 2]), width: 1.8, dash: i ? [6, 3] : [] }))],
      cursor: { drag: { x: false, y: false }, points: { size: 7 } },
      hooks: { setCursor: [(u) => {
        const i = u.cursor.idx;
        if (i !== null && i !== undefined)
          said.textContent = `${line.x_name} ${tick(line.x[i])}: ` + line.series.map((s) => `${s.name} ${exact(s.y[i])}`).join(", ");
      }] },
    }, [line.x, ...line.series.map((s) => s.y)], host);
    small.push(u);
  }

  function drawGrid(canvas, grid) {
    const layers = grid.values.length, count = grid.steps.length, scale = window.devicePixelRatio || 1;
    const width = canvas.clientWidth || 300, height = Math.min(300, Math.max(72, 14 * layers));
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.style.height = `${height}px`;
    const known = grid.values.flat().filter((v) => v !== null && (!grid.log || v > 0));
    const of = grid.log ? Math.log : (v) => v, low = grid.log ? of(Math.min(...known)) : 0, high = grid.log ? of(Math.max(...known)) : 1;
    const ctx = canvas.getContext("2d");
    ctx.scale(scale, scale);
    grid.values.forEach((row, y) => row.forEach((value, x) => {
      const none = value === null || (grid.log && value <= 0);
      ctx.fillStyle = none ? color("--unknown") : ramp(high > low ? (of(value) - low) / (high - low) : 0.5);
      ctx.fillRect((x * width) / count, (y * height) / layers, width / count + 0.5, height / layers - 1);
    }));
    let at = [count - 1, layers - 1];
    const said = canvas.parentElement.querySelector("output");
    const tell = () => {
      const value = grid.values[at[1]][at[0]];
      said.textContent = `layer ${at[1]}, step ${group(grid.steps[at[0]], 9)}: ${value === null ? "not run, or not finite" : exact(value)}`;
    };
    const clamp = (x, y) => {
      at = [Math.min(count - 1, Math.max(0, x)), Math.min(layers - 1, Math.max(0, y))];
      tell();
    };
    canvas.onpointermove = (e) => clamp(Math.floor((e.offsetX / width) * count), Math.floor((e.offsetY / height) * layers));
    canvas.onkeydown = (e) => {
      const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
      if (!by) return;
      e.preventDefault();
      clamp(at[0] + by[0], at[1] + by[1]);
    };
  }

  function drawInside(details) {
    if (!details.open) return;
    const run = data.inside[Number(details.dataset.run)];
    all("[data-line]", details).forEach((host) => drawLine(host, run.lines[Number(host.dataset.line)]));
    all("[data-grid]", details).forEach((canvas) => drawGrid(canvas, run.grids[Number(canvas.dataset.grid)]));
  }

  /* The page */

  function redraw() {
    small.forEach((u) => u.destroy());
    small = [];
    drawCurves();
    all("details.run").forEach(drawInside);
  }
  const dark = () => (view.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  function setTheme(theme) {
    view.theme = theme;
    if (theme) document.documentElement.dataset.theme = theme;
    one("#theme").textContent = dark() ? "Light" : "Dark";
  }

  function begin() {
    data = JSON.parse(one("#data").textContent);
    setTheme(view.theme);
    one("#theme").onclick = () => { setTheme(dark() ? "light" : "dark"); redraw(); };
    all("details.run").forEach((details) => details.addEventListener("toggle", () => drawInside(details)));
    if (one("#plot-train")) beginCurves();
    redraw();
  }
  function beginCurves() {
    const boxes = { logx: "logX", logy: "logY", smooth: "smooth" }, radios = all("[name=axis]");
    if (!radios.some((r) => r.value === view.axis)) view.axis = radios[0].value;
    radios.forEach((radio) => {
      radio.checked = radio.value === view.axis;
      radio.onchange = () => { view.axis = radio.value; drawCurves(false); };
    });
    for (const [id, key] of Object.entries(boxes)) {
      one(`#${id}`).checked = view[key];
      one(`#${id}`).onchange = (e) => { view[key] = e.target.checked; drawCurves(key !== "logX"); };
    }
    one("#reset").onclick = () => drawCurves(false);
    all("button[data-group]").forEach((button) => {
      const g = data.groups[Number(button.dataset.group)];
      const press = () => button.setAttribute("aria-pressed", String(shown(g)));
      button.onclick = () => {
        view.toggled.has(g.label) ? view.toggled.delete(g.label) : view.toggled.add(g.label);
        press();
        drawCurves();
      };
      press();
    });
    ["train", "val"].forEach((panel, i) => { one(`#plot-${panel}`).onkeydown = (event) => byKey(event, i); });
  }

  let resized, width = document.body.clientWidth;
  new ResizeObserver(() => {
    if (document.body.clientWidth === width) return; // only higher: something was opened
    width = document.body.clientWidth;
    clearTimeout(resized);
    resized = setTimeout(redraw, 120);
  }).observe(document.body);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { setTheme(view.theme); redraw(); });
  addEventListener("beforeprint", redraw);
  addEventListener("afterprint", redraw);
  begin();

  /* Of est-report --watch: the page is asked for again, and what is new takes the place of what was there. */

  const every = Number(document.body.dataset.live);
  if (!every) return;
  let tag = "";
  async function refresh() {
    const answer = await fetch(location.href, { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
    if (answer.status === 304) return;
    if (!answer.ok) throw new Error(String(answer.status));
    tag = answer.headers.get("ETag") || "";
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const opened = new Set(all("details[open]").map((details) => details.dataset.key));
    all("details", fresh).forEach((details) => { details.open = opened.has(details.dataset.key); });
    const focused = document.activeElement && (document.activeElement.id || document.activeElement.dataset.group);
    one("main").replaceWith(document.adoptNode(one("main", fresh)));
    begin();
    if (focused) (document.getElementById(focused) || one(`[data-group="${focused}"]`) || document.body).focus({ preventScroll: true });
  }
  async function poll() {
    try {
      await refresh();
      one("#live").textContent = `Refreshed while runs go on, every ${every / 1000} s.`;
    } catch {
      one("#live").textContent = "est-report --watch does not answer; this is what it showed last.";
    }
    setTimeout(poll, every);
  }
  poll();
})();
