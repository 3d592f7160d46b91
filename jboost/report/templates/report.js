// Left of the cut is the image before, right of it the image after.
(() => {
  const cuts = [...document.querySelectorAll("input.cut")];
  const show = (input) => input.closest(".views").style.setProperty("--cut", `${input.value}%`);
  for (const input of cuts) {
    input.addEventListener("input", () => show(input));
  }
  const all = document.querySelector("input.all");
  all.addEventListener("input", () => {
    for (const input of cuts) {
      input.value = all.value;
      show(input);
    }
  });
})();
