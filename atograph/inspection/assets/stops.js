'use strict';

// "What stops me": groups that stay, by their reason, and how much stays with them.

const STAYS = NET.stops.filter((each) => each.whole.params || each.whole.flops || !PLANNED);
const AT_NO_COST = NET.stops.filter((each) => !STAYS.includes(each));

function drawReasons() {
  const title = !NET.stops.length ? 'Nothing stays whole: every group can be pruned.'
    : STAYS.length ? 'What stays, and why' : 'Every layer can shrink: what is frozen keeps no layer whole.';
  byId('reasons').replaceChildren(
    el('h2', {}, title),
    ...STAYS.map(reason),
    ...(AT_NO_COST.length ? [atNoCost()] : []));
}

const atNoCost = () => el('article', { class: 'reason other' },
  el('h3', {}, 'Frozen, and no layer stays whole for it'),
  AT_NO_COST.map((each) => el('div', {}, each.text, stopped(each))));

function reason(each) {
  const line = (name, part, all) => [
    el('span', {}, name), bar(part / Math.max(all, 1)), el('span', { class: 'number' }, percent(part / Math.max(all, 1))),
  ];
  const amounts = (heading, share) => [
    el('span', { class: 'reason-head' }, heading),
    ...line('parameters', share.params, NET.params), ...line('FLOPs', share.flops, NET.flops),
  ];
  return el('article', { class: 'reason' },
    el('h3', {}, each.text, each.wish && el('span', { class: 'type' }, 'your wish')),
    el('div', { class: 'reason-costs' },
      each.whole.params || each.whole.flops ? amounts('stay whole', each.whole)
        : el('span', { class: 'reason-head' }, 'no layer stays whole for it'),
      PLANNED ? null : amounts('would shrink further, if it could go', each.hanging)),
    stopped(each));
}

const SHOWN_STOPPED = 12;

function stopped({ groups, places }) {
  const button = (name) => {
    const group = GROUPS.get(name);
    return el('button', {
      type: 'button', class: 'cell frozen', '--h': hueOf(group), title: groupTitle(group), onclick: () => select(name),
    }, el('span', {}, whole(group.units)), el('span', { class: 'of' }, name));
  };
  const more = el('button', {
    type: 'button', class: 'link', onclick: () => more.replaceWith(...groups.slice(SHOWN_STOPPED).map(button)),
  }, `${groups.length - SHOWN_STOPPED} more`);
  return el('div', { class: 'stopped' },
    groups.slice(0, SHOWN_STOPPED).map(button), groups.length > SHOWN_STOPPED && more,
    places.length > 0 && el('span', { class: 'where' }, places.slice(0, 3).join(', ')));
}
