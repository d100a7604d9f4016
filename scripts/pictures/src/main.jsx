// A page that holds one dashboard, drawn from what a Prometheus answered: ?board=overview&theme=dark
import { createRoot } from 'react-dom/client';
import { createTheme, ThemeContext } from '@grafana/data';
import { GlobalStyles } from '@grafana/ui';
import { Board } from './board.jsx';

window.__grafana_public_path__ = './';

const wished = new URLSearchParams(location.search);
const mode = wished.get('theme') ?? 'dark';
const theme = createTheme({ colors: { mode } });
document.body.style.background = theme.colors.background.canvas;
document.documentElement.style.fontSize = '14px';

const answer = await fetch(`./${wished.get('board')}.data.json`);
const data = await answer.json();
createRoot(document.getElementById('root')).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles isExtensionSidebarOpen={false} />
    <Board data={data} theme={theme} width={window.innerWidth} />
  </ThemeContext.Provider>
);
