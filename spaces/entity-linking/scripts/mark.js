(text) => {
  // The selection of the text, or the word at the cursor, in brackets; out of them where it is in.
  const area = document.querySelector("#passage textarea");
  let [start, end] = [area.selectionStart, area.selectionEnd];
  if (start === end) {
    while (start > 0 && /[^\s[\]]/.test(text[start - 1])) start--;
    while (end < text.length && /[^\s[\]]/.test(text[end])) end++;
  }
  while (start < end && /\s/.test(text[start])) start++;
  while (end > start && /\s/.test(text[end - 1])) end--;
  if (start === end) return text;
  const inside = text[start - 1] === "[" && text[end] === "]";
  const said = text.slice(start, end).replace(/[[\]]/g, "");
  const from = inside ? start - 1 : start;
  const marked = text.slice(0, from) + (inside ? said : `[${said}]`) + text.slice(inside ? end + 1 : end);
  const first = inside ? from : from + 1;
  setTimeout(() => { area.focus(); area.setSelectionRange(first, first + said.length); }, 150);
  return marked;
}
