// On paper every plot is as wide as the paper, whatever the window was.
const PAPER = 690;
const plots = () => [...document.querySelectorAll("figure .plotly-graph-div")];
addEventListener("beforeprint", () => plots().forEach((plot) => {
  plot.dataset.own = plot.layout.width || "";
  Plotly.relayout(plot, { width: PAPER });
}));
addEventListener("afterprint", () => plots().forEach((plot) =>
  Plotly.relayout(plot, plot.dataset.own ? { width: +plot.dataset.own } : { width: null, autosize: true })));
