'use strict';

// The list of groups: a listbox, in which the arrow keys select.

const list = { root: byId('groups'), options: new Map(), shown: [] };

const ORDERS = {
  model: (group) => group.index,
  units: (group) => -group.units,
  params: (group) => -group.params,
  flops: (group) => -group.flops,
};

function drawGroups(groups) {
  const key = ORDERS[byId('sort').value];
  list.shown = [...groups].sort((a, b) => key(a) - key(b) || a.index - b.index);
  list.options = new Map(list.shown.map((group) => [group.name, option(group)]));
  list.root.replaceChildren(...list.options.values());
  byId('groups-title').textContent = groups.length === GROUPS.size ? 'Groups' : `Groups (${groups.length})`;
  choose(tree.selected);
}

function option(group) {
  const [first, ...rest] = group.made_by.length ? group.made_by : group.read_by;
  const [params, flops] = shares(group);
  return el('li', {
    role: 'option', tabindex: '-1', 'data-group': group.name, 'aria-selected': 'false',
    'aria-label': `${groupTitle(group)}; ${percent(params)} of the parameters, ${percent(flops)} of the FLOPs`,
  },
  swatch(group),
  el('span', { class: 'group-name' }, group.name),
  el('span', { class: 'group-units' }, beforeAfter(whole(group.units), group.kept === null ? null : whole(group.kept))),
  el('span', { class: 'group-share', title: 'of the parameters' }, percent(params)),
  el('span', { class: 'group-place', title: group.made_by.join(', ') }, first ?? '', rest.length > 0 && `  +${rest.length}`),
  group.kept === null || !group.prunable ? null : el('span', { class: 'group-kept' }, bar(group.kept / group.units, 'keeps')));
}

const swatch = (group) => el('span', {
  class: `swatch ${group.prunable ? '' : 'frozen'}`, '--h': hueOf(group), 'aria-hidden': 'true',
});

const shares = (group) => [group.params / Math.max(NET.params, 1), group.flops / Math.max(NET.flops, 1)];

/** Mark the selected group in the list. */
function choose(name) {
  list.root.querySelectorAll('[aria-selected=true], [tabindex="0"]').forEach((each) => {
    each.setAttribute('aria-selected', 'false');
    each.setAttribute('tabindex', '-1');
  });
  const made = list.options.get(name);
  made?.setAttribute('aria-selected', 'true');
  made?.scrollIntoView({ block: 'nearest' });
  (made ?? list.root.firstElementChild)?.setAttribute('tabindex', '0');
}

list.root.addEventListener('click', (event) => {
  const made = event.target.closest('[role=option]');
  if (!made) return;
  made.focus();
  select(made.dataset.group);
});

list.root.addEventListener('keydown', (event) => {
  const all = [...list.options.keys()];
  const at = all.indexOf(event.target.dataset.group);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1, Enter: at, ' ': at }[event.key];
  if (to === undefined || !all[to]) return;
  event.preventDefault();
  list.options.get(all[to]).focus();
  select(all[to]);
});

byId('sort').addEventListener('change', () => drawGroups(list.shown));
