(...values) => {
  // The last value: which mention is chosen and which tab is open, at this moment.
  const mention = document.querySelector('#answered [aria-pressed="true"]')?.dataset.mention ?? 0;
  const tab = document.querySelector('#tabs [role="tab"][aria-selected="true"]')?.id.replace("-tab-button", "");
  return [...values.slice(0, -1), JSON.stringify({ mention: Number(mention), tab })];
}
