// Charts take the place of drawings where scripts run and there is room for them; a chart that fails leaves its drawing.
(() => {
  const wide = matchMedia("(min-width: 48rem)");
  const draw = (source) => {
    const figure = document.getElementById(source.dataset.figure);
    const drawing = figure.querySelector(".scroll");
    const place = document.createElement("div");
    place.className = "chart";
    place.setAttribute("role", "img");
    place.setAttribute("aria-labelledby", drawing.getAttribute("aria-labelledby"));
    // Inside, because vega-embed gives its own element another role; tables tell what single marks tell.
    const inside = place.appendChild(document.createElement("div"));
    inside.setAttribute("aria-hidden", "true");
    inside.style.width = "100%";
    drawing.after(place);
    const options = { actions: false, renderer: "svg", ast: true };
    vegaEmbed(inside, JSON.parse(source.textContent), options).then(
      () => figure.classList.add("drawn"),
      () => place.remove(),
    );
  };
  const start = () => {
    if (!wide.matches) return;
    wide.removeEventListener("change", start);
    // Vega lies in the page as text, so that reading it does not keep the page from opening.
    const vega = document.createElement("script");
    vega.textContent = document.getElementById("vega").textContent;
    document.head.append(vega);
    document.querySelectorAll("script.chart").forEach(draw);
  };
  wide.addEventListener("change", start);
  addEventListener("load", () => (window.requestIdleCallback || setTimeout)(start));
})();
