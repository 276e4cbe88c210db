// Printing: the whole graph on white paper, at a width that leaves its names readable, and back to the screen after it.

// A canvas cannot be higher than this many rows in every browser.
const PRINTED = 700;

function listenToPrinter(app) {
  const print = (on) => {
    const root = document.documentElement;
    if (root.classList.contains('printing') === on) return;
    root.classList.toggle('printing', on);
    if (on) app.screenTheme = root.dataset.theme;
    chooseTheme(on ? 'light' : app.screenTheme);
    for (const graph of app.graphs) graph.host.style.height = '';
    refresh(app.state);
    for (const graph of app.graphs) {
      if (on && graph.view) graph.host.style.height = `${Math.min(graph.rows.length, PRINTED) * ROW}px`;
      graph.again();
    }
  };
  window.addEventListener('beforeprint', () => print(true));
  window.addEventListener('afterprint', () => print(false));
}
