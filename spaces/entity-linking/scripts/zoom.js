// The tree is read at its own size or larger, or fitted to the width; it can be scrolled and, with Ctrl, zoomed by wheel.
const scale = (tree, factor) => {
  const natural = tree.viewBox.baseVal;
  const now = (factor === 0 ? element.querySelector(".canvas").clientWidth - 2 : tree.clientWidth * factor) / natural.width;
  const next = Math.min(4, Math.max(0.25, now));
  tree.setAttribute("width", natural.width * next);
  tree.setAttribute("height", natural.height * next);
};
const factors = { in: 1.25, out: 0.8, fit: 0 };
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-zoom]");
  const tree = element.querySelector("svg.tree");
  if (button && tree) scale(tree, factors[button.dataset.zoom]);
});
element.addEventListener("keydown", (event) => {
  const tree = event.target.closest(".canvas")?.querySelector("svg.tree");
  const factor = { "+": 1.25, "=": 1.25, "-": 0.8, 0: 0 }[event.key];
  if (!tree || factor === undefined || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  scale(tree, factor);
});
element.addEventListener("wheel", (event) => {
  const tree = event.target.closest(".canvas")?.querySelector("svg.tree");
  if (!tree || !event.ctrlKey) return;
  event.preventDefault();
  scale(tree, event.deltaY < 0 ? 1.1 : 0.9);
}, { passive: false });
