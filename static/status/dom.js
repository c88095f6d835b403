// The little that is needed of a DOM library. Text gets in by textContent and nothing else.

export const byId = (id) => document.getElementById(id);

export function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

/** Set text only where it differs, so that a selection in it and a screen reader's place stay. */
export function setText(node, text) {
  const wanted = String(text);
  if (node.textContent !== wanted) node.textContent = wanted;
}

export function setData(node, name, value) {
  if (node.dataset[name] !== value) node.dataset[name] = value;
}

/** A width in percent, by the CSS object model, which the page's policy allows. */
export function setWidth(node, share) {
  const width = `${(100 * Math.max(0, Math.min(1, share))).toFixed(2)}%`;
  if (node.style.width !== width) node.style.width = width;
}

/** Fill a <dl> with [name, value] pairs, reusing its nodes. Pairs without a value are left out. */
export function setFacts(list, facts) {
  const shown = facts.filter(([, value]) => value !== undefined && value !== null && value !== "–");
  while (list.children.length > shown.length) list.lastElementChild.remove();
  while (list.children.length < shown.length) {
    const pair = element("div");
    pair.append(element("dt"), element("dd"));
    list.append(pair);
  }
  shown.forEach(([name, value, note], index) => {
    const [term, definition] = list.children[index].children;
    setText(term, name);
    setText(definition, value);
    list.children[index].title = note ?? "";
  });
}
