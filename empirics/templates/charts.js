// Charts take the place of drawings where scripts run; a chart that fails leaves its drawing.
for (const source of document.querySelectorAll("script.chart")) {
  const figure = document.getElementById(source.dataset.figure);
  const drawing = figure.querySelector(".scroll");
  const place = document.createElement("div");
  place.className = "chart";
  place.setAttribute("role", "img");
  place.setAttribute("aria-labelledby", drawing.getAttribute("aria-labelledby"));
  drawing.after(place);
  const options = { actions: false, renderer: "svg", ast: true };
  vegaEmbed(place, JSON.parse(source.textContent), options).then(
    () => figure.classList.add("drawn"),
    () => place.remove(),
  );
}
