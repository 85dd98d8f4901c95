// A mention of the answered passage is chosen with the mouse, Enter or the space bar.
const choose = (target) => {
  const mention = target.closest("[data-mention]");
  if (!mention) return false;
  element.querySelectorAll("[data-mention]").forEach((other) => other.setAttribute("aria-pressed", other === mention));
  trigger("select", { index: Number(mention.dataset.mention) });
  return true;
};
element.addEventListener("click", (event) => choose(event.target));
element.addEventListener("keydown", (event) => {
  if ((event.key === "Enter" || event.key === " ") && choose(event.target)) event.preventDefault();
});
