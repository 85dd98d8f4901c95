(text) => {
  // The selection, or the word at the cursor, in brackets. Where that is a mention already, its brackets are taken out.
  const area = document.querySelector("#passage textarea");
  let [start, end] = [area.selectionStart, area.selectionEnd];
  const opened = (at) => text.lastIndexOf("[", at - 1) > text.lastIndexOf("]", at - 1) && at > 0;
  if (start === end && opened(start) && text.indexOf("]", start) >= 0) {
    start = text.lastIndexOf("[", start - 1) + 1;
    end = text.indexOf("]", start);
  } else if (start === end) {
    const word = /[^\s[\].,;:!?()"“”]/;
    while (start > 0 && word.test(text[start - 1])) start--;
    while (end < text.length && word.test(text[end])) end++;
  }
  while (start < end && /\s/.test(text[start])) start++;
  while (end > start && /\s/.test(text[end - 1])) end--;
  if (start === end) return text;
  const inside = text[start - 1] === "[" && text[end] === "]";
  const said = text.slice(start, end).replace(/[[\]]/g, "");
  let before = text.slice(0, inside ? start - 1 : start);
  let after = text.slice(inside ? end + 1 : end);
  // A mention that the selection cuts in two gives way to it.
  if (before.lastIndexOf("[") > before.lastIndexOf("]")) before = before.replace(/\[(?=[^[]*$)/, "");
  if (/^[^[]*\]/.test(after)) after = after.replace("]", "");
  const first = inside ? before.length : before.length + 1;
  const marked = before + (inside ? said : `[${said}]`) + after;
  const select = () => {
    // The page shows what is returned in a moment. Whoever has put in another text by then keeps their own cursor.
    if (area.value === text) return requestAnimationFrame(select);
    if (area.value !== marked) return;
    area.focus();
    area.setSelectionRange(first, first + said.length);
  };
  requestAnimationFrame(select);
  return marked;
}
