'use strict';

// All there is to tell of the selected group.

const SHOWN_MEMBERS = 8;

function drawPanel(name) {
  const group = GROUPS.get(name);
  byId('panel').replaceChildren(...(group ? describe(group) : hint()));
  byId('panel').scrollTop = 0;
}

function hint() {
  return [
    el('h2', {}, 'No group is selected'),
    el('p', { class: 'dim' },
      'A group is a set of units that only go together: channels, heads, features. Each cell in the map is one dimension '
      + 'of a parameter, in the colour of the group that it holds. Select one to see all that goes with it.'),
    el('ul', { class: 'legend' },
      el('li', {}, el('span', { class: 'cell', '--h': '25' }, '64', el('span', { class: 'of' }, 'g0')), ' units of a group that can go'),
      el('li', {}, el('span', { class: 'cell frozen', '--h': '25' }, '3', el('span', { class: 'of' }, 'g1')), ' units that all stay'),
      el('li', {}, el('span', { class: 'cell none' }, '3'), ' no width, such as a kernel’s size')),
  ];
}

function describe(group) {
  const [params, flops] = shares(group);
  const sides = ['makes', 'reads'].map((role) => group.members.filter((each) => each.role === role));
  return [
    el('div', { class: 'panel-head' }, swatch(group), el('h2', {}, group.name), el('span', {}, plural(group.units, 'unit')),
      el('button', { type: 'button', class: 'close', 'aria-label': 'Select no group', onclick: () => select(null) }, '×')),
    group.why && el('div', { class: 'why' },
      el('strong', {}, group.why.wish ? 'Stays, as you wish: ' : 'Stays whole: '), group.why.text,
      el('div', { class: 'where' }, [group.why.module, group.why.source].filter(Boolean).join('  ·  '))),
    group.prunable && group.least > 1 && el('p', {}, `At least ${plural(group.least, 'unit')} stay.`),
    group.kept !== null && fact('Units, before and after', group.kept / group.units,
      beforeAfter(whole(group.units), whole(group.kept)), 'keeps'),
    fact('Parameters that hang on it', params, `${count(group.params)}  ·  ${percent(params)}`),
    fact('FLOPs that hang on it', flops, `${count(group.flops)}  ·  ${percent(flops)}`),
    members('Made by', sides[0], group.made_by),
    members('Read by', sides[1], group.read_by),
    group.joins.length > 0 && el('section', {}, el('h3', {}, 'Tied together by'),
      el('ul', { class: 'plain mono' }, group.joins.map((text) => el('li', {}, text)))),
  ].filter(Boolean);
}

function fact(what, share, text, kind = '') {
  return el('div', { class: 'fact' }, el('span', {}, what), el('span', { class: 'value' }, text), bar(share, kind));
}

/** Members of one side; many of them in short first. */
function members(title, found, folded) {
  if (!found.length) return null;
  const all = () => el('ul', { class: 'members' }, found.map(member));
  const head = el('h3', {}, title, ' ', el('span', { class: 'dim' }, plural(found.length, 'parameter')));
  if (found.length <= SHOWN_MEMBERS) return el('section', {}, head, all());
  const details = el('details', {}, el('summary', {}, 'Each of them'));
  details.addEventListener('toggle', () => {
    if (details.open && details.children.length === 1) details.append(all());
  });
  return el('section', {}, head, el('ul', { class: 'plain mono' }, folded.map((name) => el('li', {}, name))), details);
}

function member({ parameter, dim, ops, zero }) {
  const shape = PARAMETERS.get(parameter)?.shape ?? [];
  return el('li', {},
    el('button', {
      type: 'button', class: 'link mono', title: 'Show it in the map', onclick: () => reveal(parameter, dim),
    }, `${parameter}[${dim}]`),
    el('span', { class: 'shape' }, shape.map((size, i) => [
      i > 0 && '×', el(i === dim ? 'b' : 'span', {}, size),
    ]).flat()),
    ops.map((text) => el('div', { class: 'where' }, text)),
    zero.some((units) => units !== '[u]') && el('div', { class: 'where' }, `zero at ${zero.join(', ')} before unit u goes`));
}
