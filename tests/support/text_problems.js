// Return the texts of a page that are outside of it, or outside of their chart, and the texts that overlap.
() => {
  const found = [];
  const shown = (element) => element.checkVisibility() && element.getClientRects().length;
  const scrolls = (element) => element.closest(".scroll, pre");
  const texts = [];
  for (const element of document.querySelectorAll("main *")) {
    const own = [...element.childNodes].filter((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own.length || !shown(element) || element.closest("[hidden], .shape")) continue;
    for (const node of own) {
      const range = document.createRange();
      range.selectNodeContents(node);
      const boxes = [...range.getClientRects()];
      const name = node.textContent.trim().slice(0, 40);
      const chart = element.closest("svg");
      const frame = (chart ?? document.documentElement).getBoundingClientRect();
      for (const box of boxes) {
        const isBelow = chart && box.bottom > frame.bottom + 1;
        const outside = box.left < frame.left - 1 || box.right > frame.right + 1 || isBelow;
        if (!scrolls(element) && outside) found.push(`outside: ${name}`);
        // Headings of rows stay in place over cells that are scrolled.
        if (!element.closest("th")) texts.push([box, element, name]);
      }
    }
  }
  for (let i = 0; i < texts.length; i++) {
    for (let j = i + 1; j < Math.min(texts.length, i + 60); j++) {
      const [a, first, firstName] = texts[i], [b, second, secondName] = texts[j];
      if (first === second || first.contains(second) || second.contains(first)) continue;
      const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (width > 1 && height > 3) found.push(`overlap: ${firstName} | ${secondName}`);
    }
  }
  const page = document.documentElement;
  if (page.scrollWidth > page.clientWidth) found.push(`the page is ${page.scrollWidth} wide, not ${page.clientWidth}`);
  return found;
}
