'use strict';

// The map: an ARIA tree of modules. What is folded is made when it is first unfolded.

const tree = {
  root: byId('tree'),
  items: new Map(), // node → its <li>, once it is made
  cells: new Map(), // name of a group → its cells, as far as they are made
  open: new Set(), // unfolded nodes
  narrowed: null, // what a search or "what stops me" leaves: { shown, open }
  selected: null,
};

const ROWS_AT_FIRST = 120;

/** Unfold level by level while the map stays short; repeated blocks stay folded. */
function openAtFirst() {
  let rows = 1;
  for (let level = [ROOT]; level.length;) {
    const next = [];
    for (const node of level) {
      if (node.kind === 'run' || !node.children.length) continue;
      if (node !== ROOT && rows + node.children.length > ROWS_AT_FIRST) continue;
      rows += node.children.length;
      tree.open.add(node);
      next.push(...node.children);
    }
    level = next;
  }
}

const openNodes = () => (tree.narrowed ? tree.narrowed.open : tree.open);
const shownChildren = (node) => node.children.filter((child) => !tree.narrowed || tree.narrowed.shown.has(child));

function drawTree() {
  const focused = tree.root.contains(document.activeElement);
  tree.items.clear();
  tree.cells.clear();
  const empty = tree.narrowed !== null && !tree.narrowed.shown.size;
  tree.root.replaceChildren(...(empty ? [] : [item(ROOT)]));
  byId('nothing').hidden = !empty;
  if (!empty) rove(tree.items.get(ROOT), focused);
}

function item(node) {
  const nested = node.children.length > 0;
  const open = nested && openNodes().has(node);
  const made = el('li', {
    role: 'treeitem', tabindex: '-1', 'aria-level': node.level, 'aria-expanded': nested ? String(open) : null,
    'aria-label': [node.title, node.type, `${count(node.params)} parameters`].filter(Boolean).join(', '),
    class: `is-${node.kind}${nested ? ' nested' : ''}${!nested && !node.parameters.length ? ' bare' : ''}`,
    '--level': node.level,
  }, row(node, nested));
  made.node = node;
  tree.items.set(node, made);
  if (open) made.append(inside(node));
  mark(made);
  return made;
}

const inside = (node) => el('ul', { role: 'group' }, shownChildren(node).map(item));

function row(node, nested) {
  const where = [node.name, node.source].filter(Boolean).join('  ');
  return el('div', { class: 'row' },
    el('span', { class: 'what', title: node.kind === 'run' ? null : where },
      el('span', { class: 'fold', 'aria-hidden': 'true' }),
      el('span', { class: 'title' }, node.title),
      node.type && el('span', { class: 'type' }, node.type)),
    nested ? pips(node) : el('span', { class: 'chips' }, node.parameters.map((each) => chip(each, node))),
    el('span', { class: 'number' }, cost(node.params, node.keptParams)),
    el('span', { class: 'number' }, PLANNED ? cost(node.flops, node.keptFlops)
      : node.flops ? percent(node.flops / Math.max(NET.flops, 1)) : ''));
}

/** A cost of a module; with a plan, before and after, and a bar of what is left. */
function cost(before, after) {
  if (!before || !PLANNED) return before ? count(before) : '';
  const share = after / before;
  return el('span', { class: 'with-bar', title: `${whole(before)} before, ${whole(after)} after: ${percent(share)} kept` },
    el('span', {}, before === after ? count(before) : `${count(before)} → ${count(after)}`), bar(share, 'keeps'));
}

const PIPS = 24;

/** What a folded node holds, a dot for each group; and how many cells of the selected one. */
function pips(node) {
  const names = [...node.held.keys()];
  const more = names.length - PIPS;
  return el('span', { class: 'pips' },
    el('span', { class: 'holds' }),
    names.slice(0, PIPS).map((name) => {
      const group = GROUPS.get(name);
      return el('span', {
        class: `pip ${group.prunable ? '' : 'frozen'}`, '--h': hueOf(group), 'data-group': name, title: groupTitle(group),
      });
    }),
    more > 0 && el('span', { class: 'small' }, `+${more}`));
}

/** A parameter: its name, and a cell for each dimension. */
function chip(parameter, node) {
  const name = lastPart(parameter.name);
  return el('span', { class: 'chip' },
    node.kind === 'module' && el('span', { class: 'parameter', title: parameter.name }, name),
    el('span', { class: 'cells' }, parameter.shape.length
      ? parameter.shape.map((size, dim) => cellsOf(parameter, size, parameter.groups[dim] ?? [], dim))
      : el('span', { class: 'cell none' }, '·')));
}

function cellsOf(parameter, size, names, dim) {
  if (!names.length) return el('span', { class: 'cell none', title: `${size}, which is no width` }, size);
  const held = names.map((name) => GROUPS.get(name));
  const alone = held.length === 1;
  const made = held.map((group) => cell(
    group, alone ? size : group.units, alone ? keptSize(parameter, dim) : group.kept, parameter, dim,
  ));
  if (held.length === 1) return made[0];
  const sign = how(held, size);
  return el('span', { class: 'shared', title: `${size} = ${held.map((group) => group.units).join(` ${sign} `)}` },
    made.flatMap((each, i) => (i ? [el('span', { class: 'sign' }, sign), each] : [each])));
}

/** A dimension by the plan; 0 where the parameter goes, null without a plan. */
const keptSize = (parameter, dim) => (PLANNED ? parameter.kept?.[dim] ?? 0 : null);

const beforeAfter = (before, after) => (after === null || after === before ? String(before) : `${before} → ${after}`);

function cell(group, size, kept, parameter, dim) {
  const text = beforeAfter(size, kept);
  const made = el('button', {
    type: 'button', tabindex: '-1', class: `cell ${group.prunable ? '' : 'frozen'}`, '--h': hueOf(group),
    'data-group': group.name, title: groupTitle(group),
    'aria-label': `${parameter.name} dimension ${dim}, size ${text}, group ${group.name}${group.prunable ? '' : ', stays'}`,
  }, el('span', {}, text), el('span', { class: 'of' }, group.name));
  if (!tree.cells.has(group.name)) tree.cells.set(group.name, []);
  tree.cells.get(group.name).push(made);
  made.classList.toggle('on', group.name === tree.selected);
  return made;
}

function groupTitle(group) {
  const units = group.kept === null || group.kept === group.units
    ? plural(group.units, 'unit') : `${whole(group.units)} → ${plural(group.kept, 'unit')}`;
  return `${group.name}: ${units}${group.why ? `; stays: ${group.why.text}` : ''}`;
}

/** Show on a node how much of the selected group it holds. */
function mark(made) {
  const cells = tree.selected === null ? 0 : made.node.held.get(tree.selected) ?? 0;
  made.classList.toggle('marked', cells > 0);
  const holds = made.querySelector(':scope > .row .holds');
  if (!holds) return;
  holds.textContent = cells ? `${plural(cells, 'cell')} of ${tree.selected}` : '';
  made.querySelectorAll(':scope > .row .pip').forEach((pip) => {
    pip.classList.toggle('on', pip.dataset.group === tree.selected);
  });
}

/** Highlight one group, or none, wherever it stands. */
function highlight(name) {
  tree.cells.get(tree.selected)?.forEach((each) => each.classList.remove('on'));
  tree.selected = name;
  tree.cells.get(name)?.forEach((each) => each.classList.add('on'));
  tree.items.forEach(mark);
  tree.root.classList.toggle('selecting', name !== null);
}

function unfold(node, open = true) {
  if (!node.children.length) return;
  if (open) openNodes().add(node);
  else openNodes().delete(node);
  const made = tree.items.get(node);
  if (!made) return;
  made.setAttribute('aria-expanded', String(open));
  const below = made.querySelector(':scope > ul');
  if (below) below.hidden = !open;
  else if (open) made.append(inside(node));
}

/** Unfold all that is above a parameter's cell, and go there. */
function reveal(parameter, dim) {
  const node = HOMES.get(parameter);
  if (tree.narrowed && !tree.narrowed.shown.has(node)) clearNarrowing();
  above(node).forEach((each) => unfold(each));
  const made = tree.items.get(node);
  if (!made) return;
  const groups = PARAMETERS.get(parameter).groups[dim] ?? [];
  const order = node.parameters.findIndex((each) => each.name === parameter);
  const chips = made.querySelectorAll('.chip')[order];
  const target = [...(chips?.querySelectorAll('button') ?? [])].find((each) => groups.includes(each.dataset.group)
    && (tree.selected === null || each.dataset.group === tree.selected));
  made.scrollIntoView({ block: 'center' });
  rove(made, true);
  (target ?? made).focus({ preventScroll: true });
}

// --- keyboard: one item can be reached by Tab, arrows go on from there ---

function rove(made, focus = true) {
  tree.root.querySelectorAll('[role=treeitem][tabindex="0"]').forEach((each) => each.setAttribute('tabindex', '-1'));
  made.setAttribute('tabindex', '0');
  if (focus) made.focus();
}

const visibleItems = () => [...tree.root.querySelectorAll('[role=treeitem]')].filter((each) => !each.closest('ul[hidden]'));
const ownCells = (made) => [...made.querySelectorAll(':scope > .row button.cell')];

function treeKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const made = event.target.closest('[role=treeitem]');
  if (!made) return;
  const inCell = event.target.matches('button.cell');
  const step = (by) => {
    const all = visibleItems();
    const next = all[all.indexOf(made) + by];
    if (next) rove(next);
  };
  const acts = {
    ArrowDown: () => step(1),
    ArrowUp: () => step(-1),
    Home: () => rove(visibleItems()[0]),
    End: () => rove(visibleItems().at(-1)),
    ArrowRight: () => (inCell ? nextCell(made, event.target, 1) : goIn(made)),
    ArrowLeft: () => (inCell ? nextCell(made, event.target, -1) : goOut(made)),
    Enter: () => press(made, event.target),
    ' ': () => press(made, event.target),
  };
  const act = acts[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function press(made, target) {
  if (target.matches('button.cell')) select(target.dataset.group);
  else if (made.node.children.length) unfold(made.node, made.getAttribute('aria-expanded') !== 'true');
  else ownCells(made)[0]?.focus();
}

function goIn(made) {
  if (!made.node.children.length) ownCells(made)[0]?.focus();
  else if (made.getAttribute('aria-expanded') === 'false') unfold(made.node);
  else rove(made.querySelector('[role=treeitem]'));
}

function goOut(made) {
  if (made.getAttribute('aria-expanded') === 'true') unfold(made.node, false);
  else if (made.node.parent) rove(tree.items.get(made.node.parent));
}

function nextCell(made, from, by) {
  const all = ownCells(made);
  const next = all[all.indexOf(from) + by];
  if (next) next.focus();
  else if (by < 0) rove(made);
}

function treeClick(event) {
  const made = event.target.closest('[role=treeitem]');
  if (!made) return;
  const held = event.target.closest('[data-group]');
  rove(made, !held);
  if (held) {
    if (held.matches('button')) held.focus();
    select(held.dataset.group === tree.selected ? null : held.dataset.group);
  } else if (event.target.closest('.row') && made.node.children.length) {
    unfold(made.node, made.getAttribute('aria-expanded') !== 'true');
  }
}

tree.root.addEventListener('click', treeClick);
tree.root.addEventListener('keydown', treeKey);
