// The texts of panel J: the English ones that its script inserts, and all Chinese ones. The other
// English texts are in durable.html.

export const en = {
  'j.sent': 'Appended {tokens} tokens with {requests} requests. Of these, {repeated} were sent twice and appended once.',
  'j.closed': 'The stream is closed: {received} tokens, {missing} missing, {duplicates} duplicates.',
  'j.cut-by-page': 'Only a server with --lab cuts connections for a page. So the page closed both streams, and continues each after its last offset.',
  'j.reloaded': 'The reader has forgotten everything, and reads from the beginning.',
};

export const zh = {
  'j.about': '模型就是本页：它向一个保存全部字节的流追加 100 个词元。它的请求带有编号，每五个请求中有一个发送两次，就像响应丢失之后那样：服务器只追加一次。有两个读者在跟随。可以在中途刷新其中一个、切断两者，或在另一个标签页里打开第三个读者。',
  'j.off': '这个服务器没有提供持久的流。请用 <code>threadcast --durable-streams</code> 或 <code>make run</code> 启动它。',
  'j.cut': '切断两个读者',
  'j.tab': '在另一个标签页里读取',
  'j.1': '读者 1', 'j.2': '读者 2', 'j.list-1': '读者 1 的词元', 'j.list-2': '读者 2 的词元',
  'j.reload': '刷新读者',
  'j.tokens': '词元',
  'j.sent': '用 {requests} 个请求追加了 {tokens} 个词元。其中 {repeated} 个请求发送了两次，只追加了一次。',
  'j.closed': '流已关闭：收到 {received} 个词元，缺少 {missing} 个，重复 {duplicates} 个。',
  'j.cut-by-page': '只有用 --lab 启动的服务器才替页面切断连接。所以页面自己关闭了两个流，再从各自最后的位置继续。',
  'j.reloaded': '读者忘掉了一切，从头开始读取。',
};
