// Elements without HTML: all text goes in as text, whoever wrote it.

/** The element with this id; it is in the page from the beginning. */
export function byId(id) {
  return document.getElementById(id);
}

/** A new element.  `properties`: attributes, and `onclick` and its like; children: elements or texts. */
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") made[name] = value;
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** Set an element's text, if it is another one: what stays untouched is not read out again, or selected anew. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set an attribute, if it is another one; null takes it away. */
export function setAttribute(element, name, value) {
  if (value == null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

const kept = new WeakMap();

/**
 * Make the children of `parent` those of `items`, in their order: one element for each key, which stays the same, so
 * that focus and selection do.  `update(element, item)` is called for new ones, too.
 */
export function reconcile(parent, items, keyOf, create, update) {
  const before = kept.get(parent) ?? new Map();
  const after = new Map();
  for (const item of items) {
    const key = keyOf(item);
    const element = before.get(key) ?? create(item);
    before.delete(key);
    after.set(key, element);
    update(element, item);
  }
  for (const element of before.values()) element.remove();
  let at = parent.firstElementChild;
  for (const element of after.values()) {
    if (element === at) at = at.nextElementSibling;
    else parent.insertBefore(element, at);
  }
  kept.set(parent, after);
}

/** `<dt>` and `<dd>` of each `[name, value]`; a value may be an element. */
export function facts(list, pairs) {
  list.replaceChildren(
    ...pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
  );
}

/** What went wrong with a section, or null. */
export function showProblem(element, problem) {
  setText(element, problem ?? "");
  element.hidden = problem == null;
}

/** A coloured word for a state; the colour alone says nothing. */
export function badge(text, kind) {
  return el("span", { class: `badge ${kind}` }, text);
}

/** Fill a `<select>` with further choices behind its first, and keep what is chosen. */
export function setChoices(select, names) {
  const wanted = [...new Set([...names, ...(select.value ? [select.value] : [])])];
  const there = [...select.options].slice(1).map((option) => option.value);
  if (wanted.join("\n") === there.join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(select.options[0], ...wanted.map((name) => el("option", { value: name }, name)));
  select.value = chosen;
}
