'use strict';

// The run of a report: what it cost and gained, its curves, and the proof. Plots have the same numbers as tables.

const CURVES = [
  { title: 'Loss', keys: { loss: 'training', controller_loss: 'controller' } },
  { title: null, keys: { metric: 'validation' } }, // called as the report calls it
  { title: 'FLOPs kept', keys: { flops: 'by the mask', soft_flops: 'by the controller' }, share: true },
  { title: 'On the way to zero', keys: { vanishing: 'norm of what is masked', zeroed: 'masked units at zero' }, share: true },
  { title: 'Learning rate', keys: { lr: 'weights', controller_lr: 'controller' } },
  { title: 'Projection', keys: { lam: 'λ' } },
  { title: 'Seconds per epoch', keys: { seconds: 'seconds' } },
];

const plots = []; // { place, traces, layout }: drawn when they can be seen

function drawRun() {
  const parts = [costs(), budgets(), latencies(), frozen(), certificate(), about()].filter(Boolean);
  byId('run').replaceChildren(
    el('section', { class: 'tables' }, parts),
    el('section', { class: 'plots' }, ...curves(), layersPlot()));
}

const section = (title, ...children) => el('section', { class: 'card' }, el('h2', {}, title), children);
const small = (value) => (value === null ? 'not finite' : value.toExponential(1));
const figure = (value) => (value === null || value === undefined ? '' : value.toFixed(4));
const bytes = (value) => `${count(value)}B`.replace(/(\d)B$/, '$1\u202fB');

function costs() {
  const { dense, slim, metrics } = REPORT;
  const line = (name, key, show) => [name, show(dense[key]), '', show(slim[key]), '', percent(slim[key] / Math.max(dense[key], 1))];
  const inOnnx = !REPORT.targets.length || REPORT.targets.includes('onnx');
  const shown = (cells) => cells.filter((_, column) => inOnnx || column !== 4);
  const lines = [
    line('FLOPs', 'flops', count), line('parameters', 'params', count),
    ...(inOnnx ? [line('ONNX file', 'bytes', bytes)] : []),
  ];
  const measured = [metrics.dense, metrics.masked, metrics.slim, metrics.onnx];
  if (measured.some((value) => value !== null)) lines.push([metrics.name, ...measured.map(figure), '']);
  return section('What it came to',
    table(shown(['', 'dense', 'masked', 'slim', 'ONNX', 'slim / dense']), lines.map(shown), { numbers: [1, 2, 3, 4, 5] }),
    metrics.before_zeroing !== null && metrics.after_zeroing !== null && el('p', { class: 'dim' },
      `At the last zeroing, ${metrics.name} went from ${figure(metrics.before_zeroing)} to ${figure(metrics.after_zeroing)}.`));
}

const BUDGETS = { flops: 'FLOPs', params: 'parameters', bytes: 'activation bytes', latency: 'latency' };

function budgets() {
  if (!REPORT.budgets.length) return null;
  const lines = REPORT.budgets.map((each) => [
    BUDGETS[each.kind] ?? each.kind, percent(each.asked), percent(each.reached), percent(each.smallest),
  ]);
  return section('Budget', table(['', 'asked', 'reached', 'smallest possible'], lines, { numbers: [1, 2, 3] }));
}

function latencies() {
  if (!REPORT.latency_ms.length) return null;
  const ms = (value, spread) => `${threeDigits(value)}${spread === null ? '' : ` ± ${Number(spread.toPrecision(2))}`}`;
  const lines = REPORT.latency_ms.map((each) => [
    `batch ${each.batch}, ${plural(each.threads, 'thread')}`, ms(each.dense, each.dense_spread), ms(each.slim, each.slim_spread),
    `${(each.dense / each.slim).toFixed(2)} ×`,
  ]);
  return section('Latency',
    table(['ONNX Runtime, CPU', 'dense ms', 'slim ms', 'speed-up'], lines, { numbers: [1, 2, 3] }));
}

/** Beyond 100 % the figure says no more. */
const weighs = (moved) => (moved === null ? '' : moved > 1 ? '>\u202f100\u202f%' : percent(moved));

function certificate() {
  if (!REPORT.certificate.length) return null;
  const labels = Object.values(REPORT.certificate[0].targets).map((each) => each.label);
  const within = (value, tolerance) => value !== null && value <= tolerance;
  const lines = REPORT.certificate.map((each) => {
    const targets = Object.values(each.targets);
    const holds = within(each.masked_slim, each.tolerance) && targets.every((one) => within(one.difference, one.tolerance));
    const wrong = [...new Set(targets.filter((one) => one.fault).map((one) => one.fault.title))].join(' and ');
    const own = (one) => (one.tolerance === each.tolerance ? '' : ` (of ${small(one.tolerance)})`);
    return [
      `batch of ${each.batch}`, small(each.masked_slim), ...targets.map((one) => `${small(one.difference)}${own(one)}`),
      small(each.tolerance), weighs(each.moved),
      el('span', { class: holds ? 'good' : 'bad' }, holds ? (wrong ? `✓ equal where ${wrong} is right` : '✓ equal') : '✗ NOT EQUAL'),
    ];
  });
  const heads = ['masked = slim', ...labels.map((label) => `slim = ${label}`), 'tolerance', 'what was zeroed weighs'];
  return section('Certificate',
    table(['', ...heads, ''], lines, { numbers: heads.map((_, index) => index + 1) }),
    REPORT.float64 !== null && el('p', { class: 'dim' }, `Masked and slim in float64 differ by ${small(REPORT.float64)}.`));
}

function frozen() {
  if (!REPORT.frozen.length) return null;
  const byReason = new Map();
  for (const each of REPORT.frozen) byReason.set(each.reason, [...(byReason.get(each.reason) ?? []), each]);
  const lines = [...byReason].map(([reason, groups]) => [
    reason, whole(groups.length), whole(groups.reduce((sum, each) => sum + each.units, 0)),
    [...new Set(groups.map((each) => each.where).filter(Boolean))].slice(0, 2).join(', '),
  ]);
  return section('What stayed whole', table(['why', 'groups', 'units', 'where'], lines, { numbers: [1, 2] }));
}

function about() {
  const minutes = `${Math.floor(REPORT.seconds / 60)}:${String(Math.floor(REPORT.seconds % 60)).padStart(2, '0')}`;
  const lines = [
    ['model', REPORT.spec], ['groups that could be pruned', whole(REPORT.groups)], ['seed', String(REPORT.seed)],
    ['device', REPORT.device], ['time (min)', minutes], ['slim module', REPORT.module], ...Object.entries(REPORT.versions),
    ...REPORT.repairs.map((text) => ['repaired', text]),
    ...(REPORT.metrics.before_training === null ? [] : [[`${REPORT.metrics.name} before the training`, figure(REPORT.metrics.before_training)]]),
    ...(REPORT.best_epoch === null ? [] : [['epoch that was kept', String(REPORT.best_epoch)]]),
    ...REPORT.notes.map((text) => ['note', text]),
    ...(REPORT.not_proved ? [['NOT PROVED', REPORT.not_proved]] : []),
  ];
  const made = section('About the run', table(['', ''], lines));
  made.classList.add('about');
  return made;
}

// --- plots ---

/** One plot for each thing that the curves hold, whatever it is called. */
function curves() {
  const rows = REPORT.curves;
  const named = new Set(['epoch', 'kept', ...CURVES.flatMap((each) => Object.keys(each.keys))]);
  const others = [...new Set(rows.flatMap(Object.keys))].filter((key) => !named.has(key));
  const wanted = [
    ...CURVES.map((each) => ({ ...each, title: each.title ?? REPORT.metrics.name })),
    ...others.map((key) => ({ title: key, keys: { [key]: key } })),
  ].map(({ keys, ...rest }) => ({
    ...rest, lines: Object.entries(keys).map(([key, name]) => ({ name, values: rows.map((row) => row[key]) })),
  }));
  const families = [...new Set(rows.flatMap((row) => Object.keys(row.kept ?? {})))];
  wanted.push({
    title: 'Units kept', lines: families.map((name) => ({ name, values: rows.map((row) => row.kept?.[name]) })),
  });
  return wanted.map((each) => curve(each, rows)).filter(Boolean);
}

const isNumber = (value) => typeof value === 'number' && Number.isFinite(value);

function curve({ title, lines, share = false }, rows) {
  const shown = lines.filter(({ values }) => values.some((value) => isNumber(value) && value !== 0));
  if (!shown.length) return null;
  const epochs = rows.map((row, i) => row.epoch ?? i + 1);
  const traces = shown.map(({ name, values }) => ({
    x: epochs, y: values.map((value) => (isNumber(value) ? value : null)), name: escaped(name),
    mode: rows.length > 1 ? 'lines' : 'markers', type: 'scatter',
  }));
  const asked = share && title === 'FLOPs kept' ? REPORT.budgets.find((each) => each.kind === 'flops') : undefined;
  if (asked) {
    traces.push({
      x: [epochs[0], epochs.at(-1)], y: [asked.asked, asked.asked], name: 'asked', mode: 'lines', line: { dash: 'dot', width: 1.5 },
    });
  }
  const layout = { xaxis: { title: { text: 'epoch' } }, yaxis: { tickformat: share ? '.0%' : undefined, rangemode: share ? 'tozero' : 'normal' } };
  layout.showlegend = traces.length > 1 && traces.length <= 8;
  const value = (each) => (isNumber(each) ? (share ? percent(each) : threeDigits(each)) : '');
  return plot(title, traces, layout, ['epoch', ...shown.map((each) => each.name)],
    () => rows.map((row, i) => [String(epochs[i]), ...shown.map(({ values }) => value(values[i]))]));
}

/** Parameters kept and removed, for each layer with a weight. */
function layersPlot() {
  if (!PLANNED) return null;
  const layers = NODES.filter((node) => node.parameters.some((each) => each.shape.length > 1) && node.params);
  if (!layers.length) return null;
  const kept = layers.map((node) => node.keptParams / node.params);
  const names = layers.map((node) => escaped(node.name));
  const places = layers.map((_, i) => i);
  const trace = (name, y, which) => ({
    type: 'bar', name, x: places, y, text: layers.map((node, i) => `${names[i]}<br>${count(y[i] * node.params)} of ${count(node.params)}`),
    hovertemplate: '%{text}, %{y:.1%}', textposition: 'none', which,
  });
  const few = layers.length <= 24;
  const layout = {
    height: 300, barmode: 'stack', bargap: few ? 0.25 : 0.1, showlegend: true, yaxis: { tickformat: '.0%', range: [0, 1] },
    xaxis: { tickvals: few ? places : [], ticktext: few ? names : [], tickangle: -40, title: few ? undefined : { text: 'layers, in order' } },
  };
  const made = plot('Parameters kept, layer by layer',
    [trace('kept', kept, 'keeps'), trace('removed', kept.map((share) => 1 - share), 'removes')], layout,
    ['layer', 'parameters', 'kept', 'removed'],
    () => layers.map((node, i) => [
      node.name, count(node.params), percent(kept[i]), percent(1 - kept[i]),
    ]));
  made.classList.add('wide');
  return made;
}

/** Plotly reads tags and entities in its texts: nothing of a name may be one. */
const escaped = (text) => String(text).replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');

function plot(title, traces, layout, headings, lines) {
  const place = el('div', { class: 'plot', role: 'img', 'aria-label': `${title}; the numbers are in the table below` });
  plots.push({ place, traces, layout });
  const details = el('details', {}, el('summary', {}, 'As a table'));
  details.addEventListener('toggle', () => {
    if (details.open && details.children.length === 1) {
      details.append(el('div', { class: 'scroll' }, table(headings, lines(), { numbers: headings.map((_, i) => i).slice(1) })));
    }
  });
  return el('section', { class: 'card' }, el('h2', {}, title), place, details);
}

const INKS = ['--plot-1', '--plot-2', '--plot-3', '--plot-4', '--plot-5', '--plot-6'];

let drawing = 0; // counts the times, so that a newer one ends those before

/** Draw all plots in the colours of the theme, one after the other, so that the page can be used meanwhile. */
async function drawPlots() {
  if (!REPORT || byId('run').hidden) return;
  drawing += 1;
  const mine = drawing;
  if (document.readyState === 'loading') { // Plotly stands last in the page
    await new Promise((next) => { document.addEventListener('DOMContentLoaded', next); });
  }
  for (const each of plots) {
    await new Promise((next) => { setTimeout(next); });
    if (mine !== drawing || byId('run').hidden) return; // what is hidden has no width
    drawPlot(each);
  }
}

/** What a custom property comes to in the theme. */
function ink(name) {
  const probe = byId('run').appendChild(el('span', {}));
  probe.style.color = `var(${name})`;
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function drawPlot({ place, traces, layout }) {
  const [text, line] = [ink('--dim'), ink('--line')];
  const axis = (given) => ({
    gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, fixedrange: true, ...given,
    title: given.title && { ...given.title, font: { size: 12, color: text }, standoff: 8 },
  });
  const coloured = traces.map(({ which, ...trace }) => (which ? { ...trace, marker: { color: ink(`--${which}`) } } : trace));
  Plotly.react(place, coloured, {
    ...layout, xaxis: axis({ showgrid: false, ...layout.xaxis }), yaxis: axis(layout.yaxis), colorway: INKS.map(ink),
    height: layout.height ?? 240, margin: { l: 44, r: 12, t: layout.showlegend ? 30 : 8, b: 36 }, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
    font: { family: 'system-ui, sans-serif', size: 12, color: text }, legend: { orientation: 'h', yanchor: 'bottom', y: 1.02, x: 0, traceorder: 'normal' },
    hoverlabel: { font: { family: 'system-ui, sans-serif' } },
  }, { displayModeBar: false, responsive: true });
}
