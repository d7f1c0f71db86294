// Markdown to elements. Text only ever becomes text nodes, so an answer cannot bring markup of its
// own into the page.

const make = (name, className, ...children) => {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...children);
  return element;
};

const INLINE = /(`+)([^`]|[^`].*?[^`])\1(?!`)|\*\*(.+?)\*\*|\*([^\s*][^*]*?)\*|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)/s;

// Code, bold, italics and links in a text.
function inline(text) {
  const nodes = [];
  for (;;) {
    const found = INLINE.exec(text);
    if (!found) break;
    if (found.index > 0) nodes.push(text.slice(0, found.index));
    const [all, , code, bold, italic, label, address] = found;
    if (code !== undefined) nodes.push(make("code", "", code.trim()));
    else if (bold !== undefined) nodes.push(make("strong", "", ...inline(bold)));
    else if (italic !== undefined) nodes.push(make("em", "", ...inline(italic)));
    else {
      const link = make("a", "", label);
      link.href = address;
      link.target = "_blank";
      link.rel = "noreferrer noopener";
      nodes.push(link);
    }
    text = text.slice(found.index + all.length);
  }
  if (text) nodes.push(text);
  return nodes;
}

function codeBlock(language, code) {
  const copy = make("button", "", "Copy");
  copy.type = "button";
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1200);
  });
  const bar = make("div", "bar", make("span", "", language || "code"), copy);
  return make("div", "block", bar, make("pre", "", make("code", "", code)));
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
}

function table(lines) {
  const row = (line, name) =>
    make("tr", "", ...cells(line).map((cell) => make(name, "", ...inline(cell))));
  const head = make("thead", "", row(lines[0], "th"));
  return make("table", "", head, make("tbody", "", ...lines.slice(2).map((line) => row(line, "td"))));
}

const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;

// A list, and those inside it by their indentation.
function list(lines) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const element = make(/\d/.test(mark) ? "ol" : "ul", "");
  if (/\d/.test(mark)) element.start = parseInt(mark, 10);
  for (let at = 0; at < lines.length;) {
    const found = ITEM.exec(lines[at++]);
    const inner = [];
    while (at < lines.length) {
      const next = ITEM.exec(lines[at]);
      if (next && next[1].length <= indent.length) break;
      inner.push(lines[at++]);
    }
    const item = make("li", "", ...inline(found[3]));
    if (inner.some((line) => ITEM.test(line))) item.append(...blocks(inner.join("\n")));
    else if (inner.length) item.append(...inline("\n" + inner.map((line) => line.trim()).join("\n")));
    element.append(item);
  }
  return element;
}

function blocks(text) {
  const lines = text.split("\n");
  const found = [];
  const take = (test) => {
    const taken = [];
    while (at < lines.length && test(lines[at])) taken.push(lines[at++]);
    return taken;
  };
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = /^\s*(```+|~~~+)\s*([^\s`]*)/.exec(line);
    if (fence) {
      at++;
      const code = take((other) => !other.trim().startsWith(fence[1]));
      at++;
      found.push(codeBlock(fence[2], code.join("\n")));
    } else if (/^#{1,6}\s/.test(line)) {
      const [, marks, title] = /^(#{1,6})\s+(.*)$/.exec(line) ?? [line, "#", line];
      found.push(make(`h${Math.min(5, marks.length + 2)}`, "", ...inline(title)));
      at++;
    } else if (ITEM.test(line)) {
      found.push(list(take((other) => ITEM.test(other) || /^\s+\S/.test(other))));
    } else if (line.startsWith(">")) {
      const inner = take((other) => other.startsWith(">")).map((other) => other.replace(/^> ?/, ""));
      found.push(make("blockquote", "", ...blocks(inner.join("\n"))));
    } else if (line.includes("|") && /^[\s|:-]+$/.test(lines[at + 1] ?? "x") && lines[at + 1].includes("-")) {
      found.push(table(take((other) => other.includes("|"))));
    } else if (!line.trim()) {
      at++;
    } else {
      const plain = (other) => other.trim() && !/^(\s*(```|~~~)|#{1,6}\s|>)/.test(other) && !ITEM.test(other);
      const taken = take(plain);
      found.push(make("p", "", ...inline(taken.length ? taken.join("\n") : lines[at++])));
    }
  }
  return found;
}

export { blocks, make };
