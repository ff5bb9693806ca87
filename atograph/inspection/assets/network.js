'use strict';

// The data of the page as a tree of nodes: modules, runs of repeated blocks, and parameters that stand in a module which
// holds other modules.

const NET = JSON.parse(byId('data').textContent);

const GROUPS = new Map(NET.groups.map((group, index) => [group.name, { ...group, index }]));
const PARAMETERS = new Map(NET.parameters.map((parameter) => [parameter.name, parameter]));
const PLANNED = NET.kept_flops !== null;

const NODES = [];
const CONTAINERS = new Set(['Sequential', 'ModuleList', 'ModuleDict']);

const lastPart = (name) => name.slice(name.lastIndexOf('.') + 1);
const parentOf = (name) => name.slice(0, Math.max(name.lastIndexOf('.'), 0));
const product = (shape) => shape.reduce((all, size) => all * size, 1);

function addNode(kind, name, title, given) {
  const node = {
    id: NODES.length, kind, name, title, type: '', parent: null, children: [], parameters: [], params: 0, flops: 0, keptParams: 0, keptFlops: 0, ...given,
  };
  NODES.push(node);
  return node;
}

/** The root, with all below it. */
function grow() {
  const byName = new Map();
  for (const { name, type, params, flops, kept_params: keptParams, kept_flops: keptFlops, source } of NET.modules) {
    const costs = { params, flops, keptParams, keptFlops };
    byName.set(name, addNode('module', name, lastPart(name) || NET.name, { type, source, ...costs }));
    if (name) byName.get(parentOf(name)).children.push(byName.get(name));
  }
  for (const parameter of NET.parameters) (byName.get(parameter.module) ?? byName.get('')).parameters.push(parameter);
  const root = byName.get('');
  for (const node of byName.values()) {
    if (!node.children.length) continue;
    const own = node.parameters.map((parameter) => addNode('parameter', parameter.name, lastPart(parameter.name), {
      parameters: [parameter], params: product(parameter.shape), keptParams: keptParams(parameter),
    }));
    node.parameters = [];
    node.children = [...own, ...runsIn(node)];
  }
  settle(root, null, 1);
  return root;
}

/** A module's children, those that are repeated as one node that holds them. */
function runsIn(node) {
  const found = [];
  let run = [];
  const close = () => {
    // a few layers in a row are easily read; blocks are what repeats
    const enough = run.some((each) => each.children.length) ? 2 : 5;
    found.push(...(run.length >= enough ? [asRun(node, run)] : run));
    run = [];
  };
  for (const child of node.children) {
    if (run.length && !alike(run[0], child)) close();
    run.push(child);
  }
  close();
  return found;
}

function numbered(title) {
  const [, text, number] = /^(.*?)(\d+)$/.exec(title) ?? [null, title, null];
  return { text, number };
}

function alike(one, other) {
  const [a, b] = [numbered(one.title), numbered(other.title)];
  return a.number !== null && b.number !== null && a.text === b.text && one.type === other.type
    && !CONTAINERS.has(one.type) && (one.type !== '' || a.text === '');
}

function asRun(node, run) {
  const [first, last] = [run[0], run[run.length - 1]];
  const prefix = node.name ? `${node.title}.` : '';
  const title = `${prefix}${first.title}–${numbered(last.title).number}`;
  const total = (key) => run.reduce((sum, each) => sum + each[key], 0);
  return addNode('run', `${node.name}/${first.title}`, title, {
    type: first.type, children: run, params: total('params'), flops: total('flops'),
    keptParams: total('keptParams'), keptFlops: total('keptFlops'),
  });
}

/** Tell each node its parent, its level, how many cells below it each group has, and whether something there stays whole. */
function settle(node, parent, level) {
  Object.assign(node, { parent, level, held: new Map(), stays: node.parameters.some(staysWhole) });
  const hold = (group, cells) => node.held.set(group, (node.held.get(group) ?? 0) + cells);
  for (const parameter of node.parameters) for (const held of parameter.groups) held.forEach((group) => hold(group, 1));
  for (const child of node.children) {
    settle(child, node, level + 1);
    child.held.forEach((cells, group) => hold(group, cells));
    node.stays ||= child.stays;
  }
}

/** Whether no plan makes a parameter smaller: all groups along it are frozen. */
function staysWhole(parameter) {
  const held = parameter.groups.flat();
  return held.length > 0 && held.every((name) => !GROUPS.get(name).prunable);
}

const keptParams = (parameter) => (parameter.kept ? product(parameter.kept) : 0);

/** How several groups share one dimension: `·` where each index is a pair of units, `+` where they lie side by side. */
function how(held, size) {
  const pairs = held.reduce((value, group) => value * group.units, 1);
  const sum = held.reduce((value, group) => value + group.units, 0);
  return held.length > 1 && sum === size && pairs !== size ? '+' : '·';
}

const ROOT = grow();
const HOMES = new Map(NODES.flatMap((node) => node.parameters.map((parameter) => [parameter.name, node])));

/** Nodes from the root down to, and without, this one. */
function above(node) {
  const found = [];
  for (let each = node.parent; each; each = each.parent) found.unshift(each);
  return found;
}

/** A group's own hue: the golden angle sets neighbours far apart, the same ones in every page of the network. */
const hueOf = (group) => ((group.index * 137.508 + 25) % 360).toFixed(1);
