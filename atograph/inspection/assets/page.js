'use strict';

// The page as a whole: what is selected, searched for and shown, the theme, and the keys.

const RUN = byId('run'); // there with a report only
const view = { query: '', stops: false, shown: RUN && location.hash.length < 2 ? 'run' : 'network' };

/** Select a group, or none: here everything that shows it is told. */
function select(name) {
  const known = GROUPS.has(name) ? name : null;
  highlight(known);
  choose(known);
  drawPanel(known);
  byId('said').textContent = known === null ? '' : groupTitle(GROUPS.get(known));
  if (known !== null) show('network');
  remember(known === null ? '' : `#${encodeURIComponent(known)}`);
}

function remember(fragment) {
  if (location.hash === fragment) return;
  history.replaceState(null, '', fragment || location.pathname + location.search);
}

// --- what is shown of the network ---

function matches(node, query) {
  return node.name.toLowerCase().includes(query) || node.type.toLowerCase().includes(query)
    || node.parameters.some((each) => each.name.toLowerCase().includes(query) || each.groups.flat().includes(query));
}

const UNFOLDED_BY_SEARCH = 300;

/** Nodes that a search, or "what stops me", leaves in the map, and those of them that are unfolded. */
function narrow() {
  const { query, stops } = view;
  if (!query && !stops) return null;
  const shown = new Set();
  const open = new Set();
  const visit = (node, within) => {
    if (stops && !node.stays) return false;
    const hit = query !== '' && node.kind !== 'run' && node !== ROOT && matches(node, query);
    let found = !query || within || hit;
    let below = false;
    for (const child of node.children) below = visit(child, within || hit) || below;
    found = found || below;
    if (!found) return false;
    shown.add(node);
    if (query ? !hit && !within && below && open.size < UNFOLDED_BY_SEARCH : tree.open.has(node)) open.add(node);
    return true;
  };
  visit(ROOT, false);
  return { shown, open };
}

function groupMatches(group, query) {
  return group.name.toLowerCase() === query || group.why?.text.toLowerCase().includes(query)
    || group.members.some((each) => each.parameter.toLowerCase().includes(query));
}

function redraw() {
  tree.narrowed = narrow();
  drawTree();
  drawGroups([...GROUPS.values()].filter((group) => (!view.stops || !group.prunable)
    && (!view.query || groupMatches(group, view.query))));
  highlight(tree.selected);
  document.documentElement.classList.toggle('stops', view.stops);
  byId('reasons').hidden = !view.stops;
  byId('stops').setAttribute('aria-pressed', String(view.stops));
  byId('said').textContent = view.query ? `${plural(list.shown.length, 'group')} found` : '';
}

function search(text) {
  view.query = text.trim().toLowerCase();
  if (view.query) show('network');
  redraw();
}

function toggleStops() {
  view.stops = !view.stops;
  show('network');
  redraw();
}

function clearNarrowing() {
  byId('search').value = '';
  view.query = '';
  view.stops = false;
  redraw();
}

// --- views ---

byId('views')?.addEventListener('click', (event) => {
  const tab = event.target.closest('[role=tab]');
  if (tab) show(tab.getAttribute('aria-controls'));
});

byId('views')?.addEventListener('keydown', (event) => {
  if (event.key !== 'ArrowRight' && event.key !== 'ArrowLeft') return;
  show(view.shown === 'run' ? 'network' : 'run');
  byId(`tab-${view.shown}`).focus();
});

function show(name) {
  view.shown = name;
  if (!RUN) return;
  byId('network').hidden = name !== 'network';
  RUN.hidden = name !== 'run';
  byId('views').querySelectorAll('[role=tab]').forEach((tab) => {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute('aria-selected', String(chosen));
    tab.setAttribute('tabindex', chosen ? '0' : '-1');
  });
}

// --- theme: the system's, until the button says otherwise ---

const dark = matchMedia('(prefers-color-scheme: dark)');
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? 'dark' : 'light')) === 'dark';

function themed() {
  byId('theme').textContent = isDark() ? 'Light' : 'Dark';
  byId('theme').setAttribute('aria-label', isDark() ? 'Light colours' : 'Dark colours');
}

function toggleTheme() {
  document.documentElement.dataset.theme = isDark() ? 'light' : 'dark';
  themed();
}

// --- keys of the whole page ---

document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches?.('input, select, textarea');
  if (event.key === 'Escape') {
    if (view.query || view.stops) clearNarrowing();
    else select(null);
    if (typing) event.target.blur();
  } else if (event.key === 'Enter' && event.target === byId('search')) {
    tree.root.querySelector('[role=treeitem][tabindex="0"]')?.focus();
  } else if (!typing) {
    const act = { '/': () => byId('search').focus(), s: toggleStops, t: toggleTheme }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }
});

function followFragment() {
  let name = '';
  try {
    name = decodeURIComponent(location.hash.slice(1));
  } catch { /* not what this page wrote */ }
  select(name || null);
}

byId('search').addEventListener('input', (event) => search(event.target.value));
byId('stops').addEventListener('click', toggleStops);
byId('theme').addEventListener('click', toggleTheme);
addEventListener('hashchange', followFragment);
dark.addEventListener('change', themed);

document.documentElement.classList.toggle('planned', PLANNED);
drawReasons();
openAtFirst();
redraw();
themed();
show(view.shown);
followFragment();
// twice: after the first frame is laid out, and painted
requestAnimationFrame(() => requestAnimationFrame(() => {
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}));
