// A button that takes a file. Its size is looked at before it travels: a server closes the connection for what is
// too large for it, and nobody learns why.
function render({ model, el }) {
  const input = Object.assign(document.createElement("input"), { type: "file", accept: model.get("accept"), hidden: true });
  const button = Object.assign(document.createElement("button"), {
    className: "jupyter-widgets jupyter-button widget-button",
    textContent: model.get("description"),
    title: model.get("tooltip"),
  });
  button.style.width = "auto";
  button.onclick = () => {
    // The same file again is a change, too.
    input.value = "";
    input.click();
  };
  input.onchange = async () => {
    const [file] = input.files;
    const named = { name: file.name, size: file.size };
    // So small that it arrives whatever becomes of the file.
    model.send({ ...named, arrived: false });
    if (file.size <= model.get("largest")) model.send({ ...named, arrived: true }, undefined, [await file.arrayBuffer()]);
  };
  el.append(button, input);
}
export default { render };
