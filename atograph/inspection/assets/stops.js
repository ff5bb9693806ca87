'use strict';

// "What stops me": frozen groups by their reason, and how much hangs on each reason.

function reasons() {
  const found = new Map();
  for (const group of GROUPS.values()) {
    if (!group.why) continue;
    const { text, wish } = group.why;
    const key = `${wish} ${text}`;
    if (!found.has(key)) found.set(key, { text, wish, groups: [] });
    found.get(key).groups.push(group);
  }
  const costs = [...found.values()].map((each) => ({ ...each, ...hanging(each.groups) }));
  return costs.sort((a, b) => b.flops - a.flops || b.params - a.params);
}

/** What hangs on any of several groups: known exactly of one, of several at most the sum. */
function hanging(groups) {
  const names = new Set(groups.map((group) => group.name));
  const sum = (key) => groups.reduce((total, group) => total + group[key], 0);
  const touched = NET.parameters
    .filter((parameter) => parameter.groups.some((held) => held.some((name) => names.has(name))))
    .reduce((total, parameter) => total + elements(parameter), 0);
  return {
    params: Math.min(sum('params'), touched), flops: Math.min(sum('flops'), NET.flops),
    exactParams: groups.length === 1 || sum('params') <= touched, exactFlops: groups.length === 1,
  };
}

function drawReasons() {
  const found = reasons();
  const share = (part, all, exact) => `${exact ? '' : '≤\u202f'}${percent(part / Math.max(all, 1))}`;
  byId('reasons').replaceChildren(
    el('h2', {}, found.length ? 'What stays whole, and why' : 'Nothing stays whole: every group can be pruned.'),
    ...found.map((each) => el('article', { class: 'reason' },
      el('h3', {}, each.text, each.wish && el('span', { class: 'type' }, 'your wish')),
      el('div', { class: 'reason-costs' },
        el('span', {}, 'parameters'), bar(each.params / NET.params), el('span', { class: 'number' },
          share(each.params, NET.params, each.exactParams)),
        el('span', {}, 'FLOPs'), bar(each.flops / NET.flops), el('span', { class: 'number' },
          share(each.flops, NET.flops, each.exactFlops))),
      stopped(each.groups))));
}

const SHOWN_STOPPED = 12;

function stopped(groups) {
  const places = [...new Set(groups.map((group) => group.why.source).filter(Boolean))];
  const button = (group) => el('button', {
    type: 'button', class: 'cell frozen', '--h': hueOf(group), title: groupTitle(group), onclick: () => select(group.name),
  }, el('span', {}, whole(group.units)), el('span', { class: 'of' }, group.name));
  const more = el('button', {
    type: 'button', class: 'link', onclick: () => more.replaceWith(...groups.slice(SHOWN_STOPPED).map(button)),
  }, `${groups.length - SHOWN_STOPPED} more`);
  return el('div', { class: 'stopped' },
    groups.slice(0, SHOWN_STOPPED).map(button), groups.length > SHOWN_STOPPED && more,
    places.length > 0 && el('span', { class: 'where' }, places.slice(0, 3).join(', ')));
}
